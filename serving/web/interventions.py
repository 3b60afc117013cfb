"""Interfering with a release: pause, resume, skip, abort, override; with its entry."""

from __future__ import annotations

from collections.abc import Callable

from serving.control import freeze_enforcement, paused_dags
from serving.control.audit import AuditEntry
from serving.control.audit_entries import ended_by, exclusively, trail_of
from serving.control.freezes import Override
from serving.control.release_deployment import state_of
from serving.control.release_queue import release_lock
from serving.control.releases import Release
from serving.control.rollout.control import ControlRequest
from serving.control.rollout.journal import UnknownRelease
from serving.control.rollout.plan import Phase, RolloutState
from serving.control.wiring import Services, now
from serving.web.access import Person
from serving.web.ports import Dags
from serving.web.problems import Conflict

_LOOK = "look at the release again, then decide"


def pause(services: Services, release: Release, request: ControlRequest, person: Person) -> RolloutState:
    return _interfere(services, release, request, "pause", services.rollouts.pause)


def resume(
    services: Services, dags: Dags, release: Release, request: ControlRequest, person: Person
) -> RolloutState:
    """Raises `Conflict` for what a freeze or a paused DAG holds."""
    state, dag_id = state_of(services, release), release.request.dag_id
    if (
        state
        and freeze_enforcement.holder_of(state) == freeze_enforcement.PAUSED_DAG
        and dags.is_paused(dag_id)
    ):
        raise Conflict(
            f"{paused_dags.describe(dag_id)}: its rollout goes on with it",
            remedy=paused_dags.remedy_for(dag_id),
        )
    if (
        state
        and freeze_enforcement.is_frozen(state)
        and (frozen := freeze_enforcement.holding(services, release))
    ):
        raise Conflict(
            f"{release.id} is {frozen.words}", remedy="wait, or ask an admin to override the freeze for it"
        )
    return _interfere(services, release, request, "resume", services.rollouts.resume)


def skip_hold(services: Services, release: Release, request: ControlRequest, person: Person) -> RolloutState:
    return _interfere(services, release, request, "skip", services.rollouts.skip_hold)


def abort(
    services: Services, dags: Dags, release: Release, person: Person, reason: str
) -> RolloutState | None:
    """End the release: its traffic, or its run if it had none (then None). Raises `Conflict` if over."""
    with exclusively(services, release.model):
        state = state_of(services, release)
        if state and state.phase.is_final:
            raise Conflict(_over(state), remedy=_LOOK)
        if state is None and (said := ended_by(services, release) or _run_ended(dags, release)):
            # Said is not done: whoever wrote it down may have got no further.
            _end_run(services, dags, release)
            raise Conflict(f"{release.id} is over: {said}", remedy=_LOOK)
        trail_of(services).append_or_queue(_entry(release, person.name, "abort", reason))
        if state is not None:
            return services.rollouts.roll_back(release.id, reason=f"aborted by {person.name}: {reason}")
        _end_run(services, dags, release)
        return None


def override(services: Services, dags: Dags, release: Release, person: Person, reason: str) -> Override:
    """Let the release pass every freeze. Raises `Conflict` if somebody did, or if it is over."""
    freezes = freeze_enforcement.freezes_of(services)
    with exclusively(services, release.model):
        if known := freezes.override_of(release.id):
            when = f"{known.at:%Y-%m-%d %H:%M:%S} UTC"
            raise Conflict(f"{known.by} overrode the freezes for {release.id} at {when}", remedy=_LOOK)
        state = state_of(services, release)
        if state and state.phase.is_final:
            raise Conflict(_over(state), remedy=_LOOK)
        if state is None and (said := ended_by(services, release) or _run_ended(dags, release)):
            raise Conflict(f"{release.id} is over: {said}", remedy=_LOOK)
        entry = _entry(release, person.name, "override freeze", reason)
        return freezes.override(release.id, by=person.name, reason=reason, at=now(), entry=entry)


def _interfere(
    services: Services,
    release: Release,
    request: ControlRequest,
    action: str,
    act: Callable[[str, ControlRequest], RolloutState],
) -> RolloutState:
    """The entry follows the act here, because only then is it known who of two was first."""
    trail_of(services).require_room()
    try:
        state = act(release.id, request)
    except UnknownRelease as unknown:
        raise Conflict(
            f"{release.id} is not rolling out", remedy="abort it, or freeze the model, if it should not begin"
        ) from unknown
    trail_of(services).append_or_queue(_entry(release, request.by, action, request.reason))
    return state


def _end_run(services: Services, dags: Dags, release: Release) -> None:
    """May be repeated."""
    dags.end(release.request.dag_id, release.request.run_id)
    release_lock(services, release)


def _entry(release: Release, who: str, action: str, reason: str) -> AuditEntry:
    return AuditEntry(now(), who, action, release.model, release.version, release.id, reason, {"via": "api"})


def _run_ended(dags: Dags, release: Release) -> str:
    """How its run ended; empty while it has not."""
    state = dags.state_of(release.request.dag_id, release.request.run_id)
    return "" if state in ("queued", "running") else f"its run {state or 'is gone'}"


def _over(state: RolloutState) -> str:
    ended = {Phase.DONE: "done", Phase.ROLLED_BACK: "rolled back"}.get(state.phase, state.phase.value)
    return f"{state.release_id} is over: {ended}, {state.reason}"

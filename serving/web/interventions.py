"""Interfering with a release: pause, resume, skip, abort, override; with its entry. And asking for a rollback
of a model: whether anything stands against it, the act, and how far it has come.

The rollback itself is the controller's. A run of `model_rollback` follows, for the record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from model_store.errors import Permanent
from serving.control import cooldowns, freeze_enforcement, paused_dags, rollbacks
from serving.control.audit import AuditEntry
from serving.control.audit_entries import ended_by, exclusively, trail_of
from serving.control.freezes import Override
from serving.control.queries.rollback_progress import describe, serving_version
from serving.control.queries.statuses import RollbackStatus
from serving.control.release_deployment import route_of, state_of
from serving.control.release_queue import release_lock
from serving.control.releases import Release
from serving.control.rollout.control import ControlRequest
from serving.control.rollout.journal import UnknownRelease
from serving.control.rollout.plan import Phase, RolloutState
from serving.control.traffic import RollbackPhase, RollbackProgress
from serving.control.wiring import Services, now
from serving.web.access import Person
from serving.web.ports import UNDER_WAY, Dags, StartedRun, run_id_of
from serving.web.problems import Conflict, NotFound
from serving.web.schemas import AcceptedRollback, RunView

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


log = logging.getLogger(__name__)

ROLLBACK = rollbacks.DAG_ID
# Two people who see the same trouble press the same button within this time; the second one means no more.
_SAME_TROUBLE = timedelta(seconds=60)
_STATES = {
    RollbackPhase.STARTING: RollbackStatus.UNDER_WAY,
    RollbackPhase.RETURNED: RollbackStatus.RETURNED,
    RollbackPhase.FAILED: RollbackStatus.FAILED,
}


@dataclass(frozen=True, slots=True)
class BegunRollback:
    """Of a release that was under way its `state`; else `progress`, and the run for the record if any."""

    state: RolloutState | None = None
    progress: RollbackProgress | None = None
    run: StartedRun | None = None


def roll_back(
    services: Services,
    dags: Dags,
    model: str,
    person: Person,
    reason: str,
    *,
    version: int | None,
    leaves: int | None,
) -> BegunRollback:
    """At once where the version stands by, else as soon as its pods answer."""
    # Before anything is written: a name that somebody made up leaves nothing behind.
    _serving(services, model, person)
    with exclusively(services, model):
        present = _serving(services, model, person)
        _refuse_overtaken(services, dags, model, present, version=version, leaves=leaves)
        active = [state for state in services.journal.releases(model) if not state.phase.is_final]
        first, before = rollbacks.serving_versions(services, model)
        target = version if version is not None else before
        if target is None:
            raise Conflict(
                f"{model} v{first} is the first: no version served before it", remedy=_nothing_before(active)
            )
        if active and target == before:
            return BegunRollback(state=_return_traffic(services, active[-1], person, reason))
        _refuse_useless(services, model, target, present)
        return _begin(services, dags, model, person, reason, version, present)


def rollback_view(services: Services, model: str, begun: BegunRollback) -> AcceptedRollback:
    """How far it has come by now."""
    if begun.state is not None:
        return _at_once(services, model, begun.state)
    assert begun.progress is not None
    back, state = begun.progress, _STATES[begun.progress.phase]
    return AcceptedRollback(
        model=model,
        at_once=state is RollbackStatus.RETURNED,
        release_id=None,
        run=RunView.of(begun.run) if begun.run else None,
        rollback_id=back.id,
        returns=back.returns,
        state=state,
        words=describe(back.returns, state),
    )


def _at_once(services: Services, model: str, state: RolloutState) -> AcceptedRollback:
    is_back = serving_version(route_of(services, model)) == state.previous_version
    how, since = (
        (RollbackStatus.RETURNED, state.step_started_at) if is_back else (RollbackStatus.UNDER_WAY, None)
    )
    version = state.previous_version
    return AcceptedRollback(
        model=model,
        at_once=is_back,
        release_id=state.release_id,
        run=None,
        returns=version,
        state=how,
        words=describe(version, how, since) if version else "no version serves any more",
        returned_at=since,
    )


def _return_traffic(services: Services, state: RolloutState, person: Person, reason: str) -> RolloutState:
    entry = AuditEntry(
        now(),
        person.name,
        "rollback",
        state.service,
        state.previous_version,
        state.release_id,
        reason,
        {"via": "api", "leaves": str(state.version)},
    )
    trail_of(services).append_or_queue(entry)
    cooldowns.end_hold(services, state.service)
    return services.rollouts.roll_back(state.release_id, reason=f"rolled back by {person.name}: {reason}")


def _begin(
    services: Services,
    dags: Dags,
    model: str,
    person: Person,
    reason: str,
    version: int | None,
    present: int,
) -> BegunRollback:
    at = now()
    run_id = run_id_of(None, person.name, at)
    detail = {"via": "api", "run_id": run_id, "leaves": str(present)}
    entry = AuditEntry(at, person.name, "rollback", model, version, None, reason, detail)
    trail_of(services).append_or_queue(entry)
    request = rollbacks.RollbackRequest(model, version, reason, "", person.name, run_id, at)
    try:
        progress = services.rollouts.roll_model_back(request)
    except rollbacks.AlreadyRolledBack as overtaken:
        raise Conflict(overtaken.problem, remedy=overtaken.remedy) from overtaken
    return BegunRollback(progress=progress, run=_record(dags, request))


def _record(dags: Dags, request: rollbacks.RollbackRequest) -> StartedRun | None:
    """The run that tells MLflow. Traffic is on its way: what fails here is made up for by the reconciler."""
    version = str(request.version) if request.version is not None else None
    said = {"model": request.model, "version": version, "reason": request.reason}
    try:
        return dags.start(ROLLBACK, request.run_id, said, by=request.by, at=request.at, before=lambda: None)
    except Exception:
        log.exception("%s of %s has no run yet", request.run_id, request.model)
        return None


def _refuse_overtaken(
    services: Services,
    dags: Dags,
    model: str,
    present: int,
    *,
    version: int | None,
    leaves: int | None,
) -> None:
    open_runs = [run for run in dags.under_way(ROLLBACK) if run.said.get("model") == model]
    asked = [(run.by, run.at) for run in open_runs if _phase_of(services, model, run.run_id) is None]
    under_way = (one.request for one in rollbacks.under_way(services) if one.model == model)
    for who, at in [*asked, *((request.by, request.at) for request in under_way)]:
        raise Conflict(
            f"{who or 'somebody'} asked for a rollback of {model} at {at:%Y-%m-%d %H:%M:%S} UTC",
            remedy="it is on its way: wait for it",
        )
    last = _last_rollback(services, dags, model)
    if leaves is not None and leaves != present:
        since = f"; {last.who} rolled back at {last.at:%Y-%m-%d %H:%M:%S} UTC: {last.reason}" if last else ""
        raise Conflict(f"version {present} serves by now, not {leaves}{since}", remedy=_LOOK)
    if last and leaves is None and version is None and now() - last.at < _SAME_TROUBLE:
        raise Conflict(
            f"{last.who} rolled {model} back at {last.at:%Y-%m-%d %H:%M:%S} UTC: {last.reason}",
            remedy="to go back further, name the version",
        )


def _last_rollback(services: Services, dags: Dags, model: str) -> AuditEntry | None:
    found = trail_of(services).entries(model, since=now() - timedelta(days=1))
    back = (entry for entry in found if entry.action in ("rollback", "abort"))
    return next((entry for entry in back if _came_true(services, dags, entry)), None)


def _came_true(services: Services, dags: Dags, entry: AuditEntry) -> bool:
    """Whether traffic was or is being taken back: an entry precedes its act, which may fail, or find none."""
    if entry.release_id is None:
        if (run_id := entry.detail.get("run_id")) is None:
            return True
        if phase := _phase_of(services, str(entry.model), run_id):
            return phase is not RollbackPhase.FAILED
        return dags.state_of(ROLLBACK, run_id) in (*UNDER_WAY, "success")
    try:
        return services.journal.load(entry.release_id).phase is Phase.ROLLED_BACK
    except UnknownRelease:
        return False


def _phase_of(services: Services, model: str, run_id: str) -> RollbackPhase | None:
    """None while the controller knows nothing of the run's rollback."""
    for one in rollbacks.all_of(services, model):
        if one.rollback.request.run_id == run_id:
            return rollbacks.progress_of(services, one.rollback.id).phase
    return None


def _nothing_before(active: list[RolloutState]) -> str:
    if active:
        return f"abort {active[-1].release_id} if nothing shall serve, or name a version to go back to"
    return "name the version to go back to, or release another one"


def _refuse_useless(services: Services, model: str, version: int, present: int) -> None:
    if version == present:
        raise Conflict(f"version {version} of {model} serves already", remedy="name another version")
    try:
        rollbacks.bundle_of(services, model, version)
    except Permanent as missing:
        raise NotFound(missing.problem, remedy=missing.remedy) from missing


def _serving(services: Services, model: str, person: Person) -> int:
    """The version users are given now. Raises `NotThere` if there is none."""
    route = route_of(services, model)
    arm = (route.candidate if route.split.candidate == 100 else route.stable) if route else None
    if arm is None:
        known = ", ".join(filter(person.sees, services.router.services())) or "none"
        raise NotFound(f"no version of {model} serves", remedy=f"models that serve: {known}")
    return arm.version

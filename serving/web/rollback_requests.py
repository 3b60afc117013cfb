"""Asking for a rollback of a model: whether anything stands against it, the act, and how far it has come."""

from __future__ import annotations

from datetime import timedelta

from model_store.errors import Permanent
from serving.control import cooldowns, paused_dags, rollbacks
from serving.control.audit import AuditEntry
from serving.control.audit_entries import exclusively, trail_of
from serving.control.blockers import BlockerKind
from serving.control.queries.rollback_progress import describe, serving_version
from serving.control.queries.statuses import RollbackStatus
from serving.control.release_deployment import route_of
from serving.control.rollout.journal import UnknownRelease
from serving.control.rollout.plan import Phase, RolloutState
from serving.control.wiring import Services, now
from serving.web.access import Person
from serving.web.ports import UNDER_WAY, Dags, StartedRun, run_id_of
from serving.web.problems import Conflict, NotFound
from serving.web.schemas import AcceptedRollback, RunView

ROLLBACK = rollbacks.DAG_ID
# Two people who see the same trouble press the same button within this time; the second one means no more.
_SAME_TROUBLE = timedelta(seconds=60)
_LOOK = "look at the release again, then decide"


def roll_back(
    services: Services,
    dags: Dags,
    model: str,
    person: Person,
    reason: str,
    *,
    version: int | None,
    leaves: int | None,
) -> tuple[RolloutState | None, StartedRun | None]:
    """At once where a release is under way and its way back is asked for, else by the DAG of rollbacks."""
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
            return _return_traffic(services, active[-1], person, reason), None
        _refuse_useless(services, model, target, present)
        return None, _start(services, dags, model, person, reason, version, present)


def rollback_view(
    services: Services, dags: Dags, model: str, state: RolloutState | None, started: StartedRun | None
) -> AcceptedRollback:
    """`state`: of the release that was rolled back at once; else `started`, the run that goes back."""
    if state is not None:
        return _at_once(services, model, state)
    assert started is not None
    back = rollbacks.of_run(services, model, started.run_id)
    is_paused = dags.is_paused(started.dag_id)
    words = describe(back.returns, RollbackStatus.REQUESTED)
    return AcceptedRollback(
        model=model,
        at_once=False,
        release_id=None,
        run=RunView.of(started),
        rollback_id=back.id,
        returns=back.returns,
        state=RollbackStatus.REQUESTED,
        words=f"{words}: {paused_dags.describe(started.dag_id)}" if is_paused else words,
        stands_still=BlockerKind.DAG_PAUSED if is_paused else "",
        way_out=paused_dags.remedy_for(started.dag_id) if is_paused else "",
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


def _start(
    services: Services,
    dags: Dags,
    model: str,
    person: Person,
    reason: str,
    version: int | None,
    present: int,
) -> StartedRun:
    at = now()
    run_id = run_id_of(None, person.name, at)
    detail = {"via": "api", "run_id": run_id, "leaves": str(present)}
    entry = AuditEntry(at, person.name, "rollback", model, version, None, reason, detail)
    said = {"model": model, "version": str(version) if version is not None else None, "reason": reason}
    request = rollbacks.RollbackRequest(model, version, reason, "", person.name, run_id, at)

    def fix() -> None:
        trail_of(services).append_or_queue(entry)
        # From now on its two versions are known, and how far it has come can be asked.
        rollbacks.resolve(services, request)

    return dags.start(ROLLBACK, run_id, said, by=person.name, at=at, before=fix)


def _refuse_overtaken(
    services: Services,
    dags: Dags,
    model: str,
    present: int,
    *,
    version: int | None,
    leaves: int | None,
) -> None:
    for run in dags.under_way(ROLLBACK):
        if run.said.get("model") == model:
            who = run.by or "somebody"
            raise Conflict(
                f"{who} asked for a rollback of {model} at {run.at:%Y-%m-%d %H:%M:%S} UTC",
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
        run_id = entry.detail.get("run_id")
        return run_id is None or dags.state_of(ROLLBACK, run_id) in (*UNDER_WAY, "success")
    try:
        return services.journal.load(entry.release_id).phase is Phase.ROLLED_BACK
    except UnknownRelease:
        return False


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

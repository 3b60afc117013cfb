"""How far a rollback has come, by the route itself: asked for, under way, or users are back since when."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from serving.control import paused_dags
from serving.control.blockers import Blocker, BlockerKind
from serving.control.queries.runs import Situation
from serving.control.queries.snapshots import RollbackSnapshot
from serving.control.queries.statuses import RollbackStatus
from serving.control.queries.views import RollbackRow
from serving.control.rollbacks import DAG_ID
from serving.gateway.router.base import RouteChange, ServedArm
from serving.types import Route

# What Airflow said of runs may be older than a request for one.
NEWS = timedelta(seconds=10)
# So long one that is over is worth a line where the model is.
SHOWN = timedelta(minutes=10)


def rollback_row(
    back: RollbackSnapshot,
    *,
    route: Route | None,
    changes: Iterable[RouteChange],
    situation: Situation,
    now: datetime,
) -> RollbackRow:
    """`changes`: of the model's route since the rollback was asked for, oldest first."""
    since = _since(back, route, changes)
    state = RollbackStatus.RETURNED if since else _state(back, situation, now=now)
    still = _blocker(back, state, situation)
    return RollbackRow(
        id=back.id,
        model=back.model,
        leaves=back.leaves,
        returns=back.returns,
        asked_at=back.at,
        by=back.by,
        reason=back.reason,
        state=state,
        words=still.words if still else describe(back.returns, state, since),
        returned_at=since,
        dag_id=DAG_ID,
        run_id=back.run_id,
        stands_still=still.kind if still else "",
        way_out=still.way_out if still else "",
    )


def describe(version: int, state: RollbackStatus, since: datetime | None = None) -> str:
    """The same wherever a rollback is told of."""
    match state:
        case RollbackStatus.RETURNED:
            at = f" since {since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if since else ""
            return f"all requests go to version {version}{at}"
        case RollbackStatus.UNDER_WAY:
            return f"version {version} is being started; requests go there as soon as its pods answer"
        case RollbackStatus.REQUESTED:
            return f"asked for; Airflow has not begun to start version {version} yet"
    return f"its run ended, and requests do not go to version {version}"


def sole_version(arms: Iterable[ServedArm | None]) -> int | None:
    """The version that has all traffic."""
    given = {arm.version for arm in arms if arm and arm.weight > 0}
    return given.pop() if len(given) == 1 else None


def serving_version(route: Route | None) -> int | None:
    """The version that has all traffic now."""
    if route is None:
        return None
    arms = ((route.stable, route.split.stable), (route.candidate, route.split.candidate))
    given = {arm.version for arm, weight in arms if arm and weight > 0}
    return given.pop() if len(given) == 1 else None


def is_shown(row: RollbackRow, *, now: datetime) -> bool:
    """Whether it is worth a line where the model is."""
    if row.state in (RollbackStatus.REQUESTED, RollbackStatus.UNDER_WAY):
        return True
    return now - (row.returned_at or row.asked_at) < SHOWN


def _since(back: RollbackSnapshot, route: Route | None, changes: Iterable[RouteChange]) -> datetime | None:
    """Since when the version has had all traffic; also if another one has it by now."""
    for change in changes:
        if sole_version(change.arms) == back.returns:
            return change.at
    # The history may miss a line, the route does not.
    return (back.switched_at or back.at) if serving_version(route) == back.returns else None


def _state(back: RollbackSnapshot, situation: Situation, *, now: datetime) -> RollbackStatus:
    if back.failed:
        return RollbackStatus.FAILED
    if back.by_controller:
        return RollbackStatus.UNDER_WAY
    match situation.runs.get((DAG_ID, back.run_id)):
        case "running":
            return RollbackStatus.UNDER_WAY
        case "queued":
            return RollbackStatus.REQUESTED
    return RollbackStatus.REQUESTED if now - back.at <= NEWS else RollbackStatus.FAILED


def _blocker(back: RollbackSnapshot, state: RollbackStatus, situation: Situation) -> Blocker | None:
    again = f"`./slipway rollback {back.model} {back.returns} --reason ...` tries again"
    if state is RollbackStatus.FAILED:
        why = back.failed or describe(back.returns, state)
        words = f"the rollback to version {back.returns} failed: {why}"
        return Blocker(BlockerKind.ROLLBACK, words, f"{again}; the controller's log says more")
    if state is RollbackStatus.RETURNED or back.by_controller:
        return None
    if situation.dags.get(DAG_ID):
        words = f"{paused_dags.describe(DAG_ID)}: the rollback to version {back.returns} does not go on"
        return Blocker(BlockerKind.DAG_PAUSED, words, paused_dags.remedy_for(DAG_ID))
    if "scheduler" in situation.silent:
        words = f"Airflow's scheduler is down: the rollback to version {back.returns} does not go on"
        return Blocker(BlockerKind.AIRFLOW_DOWN, words, "`./slipway up` starts it")
    return None

"""What whoever asks for a rollback is answered: how far it has come, by the route and not by the request."""

from __future__ import annotations

from serving.control import paused_dags, rollbacks
from serving.control.blockers import BlockerKind
from serving.control.queries.rollback_progress import describe, serving_version
from serving.control.queries.statuses import RollbackStatus
from serving.control.release_deployment import route_of
from serving.control.rollout.plan import RolloutState
from serving.control.wiring import Services
from serving.web.ports import Dags, StartedRun
from serving.web.schemas import AcceptedRollback, RunView


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

"""What whoever asks for a rollback is answered: how far it has come, by the route and not by the request."""

from __future__ import annotations

from serving.control import going_back, pausing
from serving.control.queries.rollbacks import serving, words_for
from serving.control.queries.statuses import Return
from serving.control.rolling import route_of
from serving.control.rollout.plan import RolloutState
from serving.control.standstill import Kind
from serving.control.wiring import Services
from slipway_airflow.web import runs
from slipway_airflow.web.replies import Gone, RunView


def told(services: Services, model: str, state: RolloutState | None, started: runs.Started | None) -> Gone:
    """`state`: of the release that was rolled back at once; else `started`, the run that goes back."""
    if state is not None:
        return _at_once(services, model, state)
    assert started is not None
    back = going_back.of_run(services, model, started.run_id)
    is_paused = runs.is_paused(started.dag_id)
    words = words_for(back.returns, Return.REQUESTED)
    return Gone(
        model=model,
        at_once=False,
        release_id=None,
        run=RunView.of(started),
        rollback_id=back.id,
        returns=back.returns,
        state=Return.REQUESTED,
        words=f"{words}: {pausing.words_for(started.dag_id)}" if is_paused else words,
        stands_still=Kind.DAG_PAUSED if is_paused else "",
        way_out=pausing.way_out(started.dag_id) if is_paused else "",
    )


def _at_once(services: Services, model: str, state: RolloutState) -> Gone:
    is_back = serving(route_of(services, model)) == state.previous_version
    how, since = (Return.RETURNED, state.step_started_at) if is_back else (Return.UNDER_WAY, None)
    version = state.previous_version
    return Gone(
        model=model,
        at_once=is_back,
        release_id=state.release_id,
        run=None,
        returns=version,
        state=how,
        words=words_for(version, how, since) if version else "no version serves any more",
        returned_at=since,
    )

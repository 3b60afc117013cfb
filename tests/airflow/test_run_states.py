"""Whether a run that is waited for can still end by itself, as Airflow says to tasks and triggers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from slipway_airflow import run_states

from serving.control.rollout.lock import Claim
from tests.airflow.test_runs import Runs
from tests.airflow.world import MODEL, World

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]


def refused(status: int | None) -> AirflowRuntimeError:
    return AirflowRuntimeError(
        ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": status})
    )


@pytest.mark.parametrize(
    ("answer", "over"),
    [
        ("success", True),
        ("failed", True),
        ("running", False),
        ("queued", False),
        (refused(404), True),
        (refused(500), False),
        (refused(None), False),
        (ConnectionError("no answer"), False),
    ],
)
def test_a_run_is_over_when_airflow_says_so_or_knows_it_no_more(
    monkeypatch: pytest.MonkeyPatch, answer: Any, over: bool
) -> None:
    def ask(dag_id: str, run_id: str) -> str:
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(RuntimeTaskInstance, "get_dagrun_state", staticmethod(ask))
    assert run_states.is_over(f"release_{MODEL}", "r") is over


def test_a_release_is_not_stuck_behind_a_run_that_ended_with_the_lock(world: World, bag: DagBag) -> None:
    world.passing.clear()
    runs = Runs(bag)
    # At a time of its own: Airflow's test runs without one take the place of those before them.
    assert runs.release("1", at=datetime(2026, 11, 21, 12, tzinfo=UTC)).state == "failed"
    (dead,) = world.releases.of_model(MODEL)
    world.lock.acquire(MODEL, Claim(dead.request.at, dead.id))
    world.passing.add("fp32")
    assert runs.release("1", reason="once more").tasks["settle"] == {"success"}
    assert world.registry.champion == 1

"""A DAG that somebody pauses in Airflow: traffic stays where it is, and all are told why and what to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from slipway_airflow import airflow_situation, dag_runs

from serving.control import freeze_enforcement, paused_dags, release_deployment, wiring
from serving.control.releases import Release
from serving.control.rollout.control import ControlRequest
from serving.control.rollout.plan import Phase
from serving.types import Outcome
from tests.airflow.desk import API, under_way
from tests.airflow.people import SIMPLE, ApiServer, api_server
from tests.airflow.world import MODEL, World

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]
DAG = f"release_{MODEL}"


@pytest.fixture
def world(api_world: World) -> Iterator[World]:
    yield api_world
    set_paused(DAG, paused=False)
    set_paused("model_rollback", paused=False)


def set_paused(dag_id: str, *, paused: bool) -> None:
    """As Airflow's switch does."""
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session
    from sqlalchemy import update

    with create_session() as session:
        session.execute(update(DagModel).where(DagModel.dag_id == dag_id).values(is_paused=paused))


def noticed(world: World) -> None:
    """What the API server does every second."""
    paused_dags.record(world.home, airflow_situation.paused_dags())


def test_the_api_server_notices_what_is_paused_by_airflows_own_api(
    world: World, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `./slipway up` starts it."""
    monkeypatch.setenv("SLIPWAY_WARM_PAGES", "1")
    monkeypatch.setattr(paused_dags, "LOOK_SECONDS", 0.05)
    with api_server(tmp_path_factory.mktemp("started"), SIMPLE) as server:
        for is_paused, expected in ((True, {DAG}), (False, set[str]())):
            switch = server.of("ada").patch(f"/api/v2/dags/{DAG}", json={"is_paused": is_paused})
            assert switch.status_code == 200
            until(lambda expected=expected: paused_dags.paused(world.home) == expected)
    until(lambda: "slipway-paused" not in {thread.name for thread in threading.enumerate()})


def until(condition: Callable[[], bool]) -> None:
    """Fails after a time that no machine needs."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def look(world: World, release: Release) -> str | None:
    """What its task is woken with, if it is."""
    phase = world.tick(release.id).phase
    return None if phase is Phase.PROGRESSING else phase.value


def test_a_rollout_keeps_its_split_while_its_dag_is_paused_and_goes_on_afterwards(world: World) -> None:
    release = under_way(world)
    before = world.router.read(MODEL).split
    assert before.candidate > 0
    set_paused(DAG, paused=True)
    noticed(world)
    for _ in range(20):
        assert look(world, release) is None
    assert world.router.read(MODEL).split == before
    assert "release_fraud is paused in Airflow" in world.journal.load(release.id).paused
    set_paused(DAG, paused=False)
    noticed(world)
    for _ in range(20):
        look(world, release)
    assert world.journal.load(release.id).phase is Phase.DONE


def test_a_failing_version_is_taken_back_although_its_dag_is_paused(world: World) -> None:
    release = under_way(world)
    paused_dags.record(world.home, [DAG])
    look(world, release)
    world.journal.verdicts[world.journal.load(release.id).step] = Outcome.FAIL
    assert look(world, release) == "rolled_back"


def test_another_dag_that_is_paused_holds_nothing(world: World) -> None:
    release = under_way(world)
    paused_dags.record(world.home, ["release_churn"])
    for _ in range(20):
        look(world, release)
    assert world.journal.load(release.id).phase is Phase.DONE


def test_what_a_person_paused_stays_paused_when_the_dag_goes_on(world: World) -> None:
    release = under_way(world)
    paused_dags.record(world.home, [DAG])
    look(world, release)
    freeze_enforcement.pause(world.services, release.id, ControlRequest("bob", "lunch"))
    paused_dags.record(world.home, [])
    look(world, release)
    assert world.journal.load(release.id).paused == "by bob: lunch"


def test_a_freeze_that_ends_leaves_it_to_the_paused_dag_and_never_moves_between(world: World) -> None:
    release = under_way(world)
    before = world.router.read(MODEL).split
    freezes = freeze_enforcement.freezes_of(world.services)
    frozen = freezes.add(MODEL, by="ada", reason="audit", until=None, at=wiring.now())
    look(world, release)
    assert freeze_enforcement.is_frozen(world.journal.load(release.id))
    paused_dags.record(world.home, [DAG])
    freezes.lift(frozen.id, by="ada", at=wiring.now())
    look(world, release)
    assert freeze_enforcement.holder_of(world.journal.load(release.id)) == freeze_enforcement.PAUSED_DAG
    assert world.router.read(MODEL).split == before


def test_page_and_api_say_that_the_dag_is_paused_and_how_to_go_on(server: ApiServer, world: World) -> None:
    release = under_way(world)
    request = release.request
    dag_runs.start(DAG, request.run_id, {}, by="ada", at=request.at, before=lambda: None)
    set_paused(DAG, paused=True)
    noticed(world)
    look(world, release)
    row = server.of("rita").get(f"{API}/releases/{release.id}").json()["row"]
    assert (row["status"], row["stands_still"]) == ("paused", "dag_paused")
    assert row["why"].startswith("release_fraud is paused in Airflow")
    assert "./slipway unpause fraud" in row["way_out"]
    assert "./slipway rollback fraud" in row["way_out"]
    page = server.browser_of("rita").get(f"/slipway/releases/{release.id}").text
    assert "release_fraud is paused in Airflow" in page
    assert "./slipway unpause fraud" in page
    told = server.of("rita").get(f"{API}/standing-still").json()
    assert {(one["model"], one["release_id"]) for one in told if one["kind"] == "dag_paused"} == {
        (MODEL, None),
        (MODEL, release.id),
    }
    refused = server.of("rita").post(f"{API}/releases/{release.id}/resume", json={"reason": "go on"})
    assert refused.status_code == 409
    assert "./slipway unpause fraud" in refused.json()["remedy"]
    back = server.of("rita").post(f"{API}/models/{MODEL}/rollback", json={"reason": "enough"})
    assert (back.status_code, back.json()["at_once"]) == (202, True), "the way out that needs no run"
    assert world.router.read(MODEL).split.candidate == 0


def test_who_asks_for_a_release_while_the_dag_is_paused_is_told(server: ApiServer, world: World) -> None:
    set_paused(DAG, paused=True)
    wanted = {"model": MODEL, "version": "3", "reason": "better"}
    said: dict[str, Any] = server.of("rita").post(f"{API}/releases", json=wanted).json()
    assert said["stands_still"].startswith("release_fraud is paused in Airflow")
    assert "./slipway unpause fraud" in said["way_out"]
    row = server.of("rita").get(f"{API}/releases/{said['release_id']}").json()["row"]
    assert (row["status"], row["stands_still"]) == ("queued", "dag_paused")
    preview = server.of("rita").get(f"{API}/releases/preview?model={MODEL}&version=3").json()
    assert any("./slipway unpause fraud" in one for one in preview["warnings"])


def test_what_airflow_can_keep_a_release_from_is_read_from_its_database(world: World) -> None:
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    release = world.release(2)
    request = release.request
    dag_runs.start(DAG, request.run_id, {}, by="ada", at=request.at, before=lambda: None)
    set_paused("model_rollback", paused=True)
    run = (DAG, request.run_id)
    with create_session() as session:
        found = session.query(TaskInstance).filter(TaskInstance.run_id == request.run_id)
        found.filter(TaskInstance.task_id == "intake.export").one().state = "up_for_retry"
        XComModel.set(
            "failure",
            "MLflow does not answer",
            dag_id=DAG,
            task_id="intake.export",
            run_id=request.run_id,
            session=session,
        )
    situation = airflow_situation.situation()
    assert situation.runs[run] == "queued"
    (task,) = situation.waiting[run]
    assert (task.task_id, task.state, task.failure) == (
        "intake.export",
        "up_for_retry",
        "MLflow does not answer",
    )
    assert (situation.dags["model_rollback"], situation.dags[DAG]) == (True, False)
    assert set(situation.silent) == {"scheduler", "triggerer", "dag-processor"}, "none runs in this test"


def test_a_look_that_fails_leaves_what_was_noted_and_the_next_one_counts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused_dags.record(world.home, [DAG])
    looks: list[frozenset[str]] = []
    over = threading.Event()

    def ask() -> list[str]:
        looks.append(paused_dags.paused(world.home))
        if len(looks) == 1:
            raise OSError("busy")
        if len(looks) == 3:
            over.set()
        return []

    monkeypatch.setattr(paused_dags, "LOOK_SECONDS", 0.001)
    paused_dags.watch(world.home, ask, over)
    assert looks == [{DAG}, {DAG}, frozenset()]


def test_a_rollback_takes_its_turn_from_a_release_whose_rollout_is_over(world: World) -> None:
    from serving.control import rollbacks
    from serving.control.rollbacks import RequestedRollback, RollbackRequest

    release = under_way(world)
    request = RollbackRequest(MODEL, 3, "users complain", "", "ada", "run", wiring.now())
    rollback = RequestedRollback("fraud-rollback-20261130T080000Z", request, 1, 3)
    assert not rollbacks.acquire_lock(world.services, rollback), "it has traffic"
    world.rollouts.roll_back(release.id, reason="enough")
    assert rollbacks.acquire_lock(world.services, rollback)
    assert release_deployment.state_of(world.services, release) is not None

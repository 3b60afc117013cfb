"""Whole runs of the DAGs, in this process, against a world in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from model_store.types import TensorSpec
from serving.control.queries import outcomes
from serving.control.rollout.lock import Claim
from serving.control.rollout.plan import Phase
from serving.types import Outcome, TrafficSplit
from tests.airflow.world import MODEL, World

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

# Airflow's API server and FastAPI warn of each other when they run in this process.
pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]
RELEASE = f"release_{MODEL}"


class Runs:
    """Runs DAGs here and now."""

    def __init__(self, bag: DagBag) -> None:
        self._bag = bag

    def release(self, version: str, *, at: datetime | None = None, **conf: Any) -> Run:
        """A run of the release DAG; one `at` the same time again is that run, cleared."""
        return self.run(RELEASE, at=at, version=version, **conf)

    def run(self, dag_id: str, *, at: datetime | None = None, **conf: Any) -> Run:
        from airflow.dag_processing.dagbag import DagBag

        # Parsed anew: `DAG.test` changes the DAG it runs.
        dag = DagBag(self._bag.dag_folder).dags[dag_id]
        return Run(dag.test(logical_date=at, run_after=at, run_conf=conf))


class Run:
    """A DAG run that has ended."""

    def __init__(self, dag_run: Any) -> None:
        self.state = str(dag_run.state)
        self.run_id = dag_run.run_id
        # Mapped instances of one task share a line.
        self.tasks: dict[str, set[str]] = {}
        for ti in dag_run.get_task_instances():
            self.tasks.setdefault(ti.task_id, set()).add(str(ti.state))

    def ended(self, state: str) -> set[str]:
        """The tasks with an instance that ended so."""
        return {task_id for task_id, states in self.tasks.items() if state in states}

    def xcoms(self) -> list[tuple[str, str, Any]]:
        """(task id, key, value) of everything the run's tasks handed on."""
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            rows = session.query(XComModel).filter(XComModel.run_id == self.run_id).all()
            return [(row.task_id, row.key, row.value) for row in rows]


@pytest.fixture
def runs(bag: DagBag) -> Runs:
    return Runs(bag)


def served(world: World) -> int | None:
    """The version that has all traffic."""
    route = world.router.read(MODEL)
    arm = route.candidate if route.split == TrafficSplit(0, 100) else route.stable
    return arm.version if arm else None


def test_a_good_version_becomes_champion(world: World, runs: Runs) -> None:
    run = runs.release("candidate", reason="the first one")
    assert run.tasks == {task_id: {"success"} for task_id in run.tasks}
    assert (served(world), world.registry.champion) == (1, 1)
    assert world.registry.tags[1]["slipway.status"] == "promoted"
    assert world.lock.read(MODEL).holder is None
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [1]
    (evidence,) = world.registry.evidence.values()
    assert evidence.status == "FINISHED"
    assert {"spec.json", "gates.json", "timeline.json", "rollout.png"} <= set(evidence.artifacts)
    assert "the first one" in evidence.description
    for task_id, key, value in run.xcoms():
        assert len(json.dumps(value)) < 200, f"{task_id} hands on more than an id: {key}={value}"


def test_a_version_that_misses_every_limit_is_blocked_with_its_shortfalls(world: World, runs: Runs) -> None:
    world.serve(1)
    world.passing.clear()
    run = runs.release("2")
    assert run.state == "failed"
    assert run.ended("failed") == {"bundle.choose"}
    assert run.tasks["settle"] == {"success"}
    assert (served(world), world.registry.champion) == (1, 1)
    tags = world.registry.tags[2]
    assert tags["slipway.status"] == "blocked"
    assert "int8: accuracy -0.02, limit -0.01" in tags["slipway.reason"]
    assert world.lock.read(MODEL).holder is None


def test_a_version_that_would_break_callers_is_blocked_and_those_who_go_back_to_one_are_not(
    world: World, runs: Runs
) -> None:
    assert runs.release("1").state == "success"
    world.inputs[2] = TensorSpec("x", "FP32", (-1, 4))
    run = runs.release("2")
    assert run.ended("failed") == {"bundle.choose"}
    assert (served(world), world.registry.champion) == (1, 1)
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [1]
    tags = world.registry.tags[2]
    assert tags["slipway.status"] == "blocked"
    assert "signature against champion v1 2, limit 0" in tags["slipway.reason"]
    assert "input input FP32[-1, 4] is gone" in tags["slipway.reason"]
    (evidence,) = [found for found in world.registry.evidence.values() if found.status == "FAILED"]
    assert evidence.metrics["fp32/signature against champion v1"] == 2
    # v1 takes less than v3: as a release it would be refused, going back to it is nobody's to refuse.
    world.inputs = {3: TensorSpec("input", "FP32", (-1, -1))}
    assert runs.release("3").state == "success"
    assert (served(world), world.registry.champion) == (3, 3)
    assert runs.run("model_rollback", model=MODEL, version="1", reason="users complain").state == "success"
    assert (served(world), world.registry.champion) == (1, 1)


def test_a_failing_canary_is_rolled_back_and_its_pods_are_ended(world: World, runs: Runs) -> None:
    world.serve(1)
    world.journal.verdicts[0] = Outcome.FAIL
    run = runs.release("2")
    assert run.ended("failed") == {"rollout.roll_out"}
    assert run.ended("upstream_failed") == {"rollout.promote"}
    assert (served(world), world.registry.champion) == (1, 1)
    assert world.registry.tags[2]["slipway.status"] == "rolled_back"
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [1]


def test_a_short_absence_of_mlflow_is_waited_out(world: World, runs: Runs) -> None:
    world.registry.down = 2
    run = runs.release("1")
    assert run.state == "success"
    assert world.registry.champion == 1


def test_mlflow_gone_when_a_version_is_promoted_leaves_nothing_half_promoted(
    world: World, runs: Runs
) -> None:
    world.serve(1)
    world.registry.gone = {"log_evidence"}
    run = runs.release("2")
    assert "rollout.promote" in run.ended("failed")
    assert (served(world), world.registry.champion) == (1, 1)
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [1]
    assert world.lock.read(MODEL).holder is None


def test_a_cleared_run_is_the_same_release_and_comes_to_the_same_end(world: World, runs: Runs) -> None:
    at = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
    first = runs.release("1", at=at)
    again = runs.release("1", at=at)
    assert (first.state, again.state) == ("success", "success")
    assert again.run_id == first.run_id
    assert len(world.releases.of_model(MODEL)) == 1
    assert len(world.journal.releases(MODEL)) == 1
    assert (served(world), world.registry.champion) == (1, 1)
    assert len(world.registry.evidence) == 1


def test_a_superseded_request_ends_as_skipped_and_says_by_whom(world: World, runs: Runs) -> None:
    future = datetime.now(UTC) + timedelta(days=1)
    world.lock.acquire(MODEL, Claim(future, "fraud-v9-20261122T000000Z"))
    run = runs.release("1")
    assert run.tasks == {task_id: {"skipped"} for task_id in run.tasks}
    ended = [value for _, key, value in run.xcoms() if key == "ended"]
    assert ended == ["superseded by fraud-v9-20261122T000000Z"]


def test_a_dry_run_publishes_and_touches_no_traffic(world: World, runs: Runs) -> None:
    world.serve(1)
    run = runs.release("2", dry_run=True)
    (release,) = world.releases.of_model(MODEL)
    ended = outcomes.of(world.rows, release.id)
    assert ended
    assert (ended.status, ended.bundle_id) == ("dry_run", world.bundle(2).id), "it ended, and said so"
    assert run.state == "success"
    assert run.tasks["bundle.publish"] == {"success"}
    assert run.tasks["rollout.roll_out"] == {"skipped"}
    assert (served(world), world.registry.champion) == (1, 1)
    assert world.store.bundle_path(world.bundle(2).id).is_dir()


def test_asking_for_a_refused_spec_says_what_is_wrong_with_it(runs: Runs) -> None:
    run = runs.run("release_broken")
    assert run.state == "failed"
    (said,) = [value for _, key, value in run.xcoms() if key == "failure"]
    assert "rollout.strategy" in said


@pytest.mark.parametrize("moved", [0.0, 0.2], ids=["the gates' answers", "others"])
def test_a_first_version_is_asked_through_the_gateway_before_anybody_is_sent_there(
    world: World, runs: Runs, monkeypatch: pytest.MonkeyPatch, moved: float
) -> None:
    import numpy as np

    from model_store.engines.noise import NOISE
    from model_store.stages.sample import Sample
    from serving import composition

    class Candidate:
        @contextmanager
        def opened(self) -> Iterator[Candidate]:
            yield self

        def answer(self, rows: Any, *, until: float) -> Any:
            route = world.router.read(MODEL)
            assert (route.split.candidate, route.stable) == (0, None)
            return {"score": rows["x"] + np.float32(moved)}

    scores = np.linspace(0, 1, 8, dtype=np.float32)
    world.sample = world.store.put_bytes(Sample({"x": scores}, {"score": scores}, NOISE["fp32"]).to_bytes())
    monkeypatch.setattr(composition, "candidate_of", lambda home, route: Candidate())
    ended = runs.release("1")
    (state,) = world.journal.releases(MODEL)
    if not moved:
        assert (ended.state, state.phase) == ("success", Phase.WATCHING)
        return
    assert "rollout.roll_out" in ended.ended("failed")
    assert (state.phase, state.step) == (Phase.ROLLED_BACK, -1)
    reason = world.registry.tags[1]["slipway.reason"]
    assert "1 of 1 evaluation rows otherwise than in the gates" in reason
    assert world.services.platform.deployments(MODEL) == []

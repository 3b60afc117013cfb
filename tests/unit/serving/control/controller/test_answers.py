"""Answers compared on recorded requests: a real Envoy, two pods of different versions, the controller."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from serving.control.controller.tick import Controller
from serving.control.rollout.advance import Rollouts
from serving.control.rollout.journal import KeptJournal
from serving.control.rollout.plan import Phase, RolloutState, RolloutStep
from serving.control.shadow import AnswerComparison, Shadow, agree
from serving.ledger.memory import MemoryLedger
from serving.metrics.envoy import EnvoyAdmin
from serving.types import (
    ALL_STABLE,
    Deployment,
    DeploymentRef,
    Endpoint,
    Finding,
    Outcome,
    RouteSettings,
    Slot,
    TrafficSplit,
)
from tests.bundles import make_bundle, mlp
from tests.pods import RunningPod, running_pod
from tests.unit.serving.gateway_process import Gateway, gateway_running
from tests.unit.serving.world import PLAN

MODEL, RELEASE = "credit_risk", "credit_risk-v2-20261121T120000Z"
POLICY = replace(PLAN.policy, max_disagreement=0.05, min_requests=30)
# Blue-green: the candidate is judged in the preview, before any user meets it.
PREVIEW = replace(
    PLAN, steps=(RolloutStep(ALL_STABLE, 0), RolloutStep(TrafficSplit(0, 100), 0)), policy=POLICY
)
LOGGED = {"request_log": {"share": 1.0}}
REQUESTS = 120


def deployed(pod: RunningPod, version: int, slot: Slot) -> Deployment:
    endpoint = Endpoint("127.0.0.1", pod.port)
    return Deployment(DeploymentRef(MODEL, slot, f"b{version}", version), (endpoint,))


class Scene:
    """Stable has answered `REQUESTS` different requests through Envoy and written them down."""

    def __init__(self, gateway: Gateway, folder: Path, stack: ExitStack, *, candidate_seed: int) -> None:
        stable = stack.enter_context(
            running_pod(make_bundle(folder, mlp(seed=1), serving=LOGGED), request_log=folder / "log")
        )
        candidate = stack.enter_context(running_pod(make_bundle(folder, mlp(seed=candidate_seed), version=2)))
        self.candidate, self.gateway, self.log = candidate, gateway, folder / "log"
        gateway.router.write(MODEL, ALL_STABLE, stable=deployed(stable, 1, Slot.BLUE), candidate=None, at=0)
        rows = np.random.default_rng(5).standard_normal((REQUESTS, 4))
        gateway.wait(lambda: self._ask(rows[0]) == 200)
        assert {self._ask(row) for row in rows} == {200}
        stable.stop()  # which writes its log; it comes back on the same port, as a supervised pod does
        again = running_pod(make_bundle(folder / "again", mlp(seed=1), serving=LOGGED), port=stable.port)
        stack.enter_context(again)
        self.journal = KeptJournal(MemoryLedger())
        self.rollouts = Rollouts(self.journal, gateway.router, now=lambda: datetime.now(UTC))
        self.rollouts.start(RELEASE, PREVIEW, deployed(candidate, 2, Slot.GREEN), RouteSettings())
        self.shadow = Shadow(self.log, lambda *which: AnswerComparison(*which, per_second=200))

    def _ask(self, row: object) -> int:
        values = np.asarray(row).tolist()
        body = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": values}]}
        return self.gateway.client.post(f"/v2/models/{MODEL}/infer", json=body).status_code

    @property
    def state(self) -> RolloutState:
        return self.journal.load(RELEASE)

    def controller_until(self, condition: Callable[[], bool]) -> None:
        metrics = EnvoyAdmin(self.gateway.home.envoy_stats_url, timeout_seconds=10)
        controller = Controller(
            self.journal,
            self.gateway.router,
            metrics,
            now=lambda: datetime.now(UTC),
            monotonic=time.monotonic,
            shadow=self.shadow,
        )

        def look() -> bool:
            controller.tick()
            return condition()

        self.gateway.wait(look, seconds=20)
        self.shadow.end(RELEASE)
        metrics.close()

    def disagreement(self) -> Finding:
        latest = self.journal.latest_record(RELEASE)
        assert latest
        return next(finding for finding in latest.verdict.findings if finding.rule == "disagreement")


@contextmanager
def scene_with(tmp_path: Path, candidate_seed: int) -> Iterator[Scene]:
    with gateway_running(tmp_path / "home") as gateway, ExitStack() as stack:
        (tmp_path / "again").mkdir()
        yield Scene(gateway, tmp_path, stack, candidate_seed=candidate_seed)


def test_a_candidate_that_answers_otherwise_is_taken_back_before_a_user_meets_it(tmp_path: Path) -> None:
    with scene_with(tmp_path, candidate_seed=2) as scene:
        scene.controller_until(lambda: scene.state.phase is Phase.ROLLED_BACK)
        assert "answers differ on" in scene.state.reason
        assert scene.disagreement().outcome is Outcome.FAIL
        latest = scene.journal.latest_record(RELEASE)
        assert latest
        assert latest.candidate.requests == 0
        assert 0 < latest.answers[1] <= latest.answers[0] <= REQUESTS


def test_a_candidate_that_answers_alike_goes_on_after_enough_were_compared(tmp_path: Path) -> None:
    with scene_with(tmp_path, candidate_seed=1) as scene:
        scene.controller_until(lambda: scene.state.step == 1)
        numbers = dict(scene.disagreement().numbers)
        assert numbers["compared"] >= POLICY.min_requests
        assert numbers["disagreed"] == 0


def test_a_restarted_controller_compares_no_request_twice(tmp_path: Path) -> None:
    with scene_with(tmp_path, candidate_seed=1) as scene:
        route = scene.gateway.router.read(MODEL)
        again = AnswerComparison(scene.log, route, REQUESTS - 5, per_second=1000)
        compared = 0

        def all_done() -> bool:
            nonlocal compared
            compared += again.take()[0]
            return compared >= 5

        scene.gateway.wait(all_done)
        again.end()
        assert compared == 5


def test_without_a_recorded_request_it_waits_and_says_what_for(tmp_path: Path) -> None:
    with scene_with(tmp_path, candidate_seed=1) as scene:
        for path in scene.log.glob("*/*.parquet"):
            path.unlink()
        scene.controller_until(lambda: scene.journal.latest_record(RELEASE) is not None)
        assert scene.state.step == -1
        assert "none of 0 compared requests" in scene.disagreement().reason


LABEL = {"name": "label", "datatype": "INT64", "shape": [2], "data": [0, 1]}
SCORES = {"name": "scores", "datatype": "FP32", "shape": [2, 2], "data": [0.9, 0.1, 0.4, 0.6]}
PRICE = {"name": "price", "datatype": "FP32", "shape": [1, 1], "data": [100.0]}


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ([LABEL, SCORES], [LABEL, {**SCORES, "data": [0.2, 0.8, 0.4, 0.6]}], True),
        ([LABEL], [{**LABEL, "data": [0, 0]}], False),
        ([LABEL], [{**LABEL, "name": "other"}], False),
        ([LABEL], [{**LABEL, "shape": [1], "data": [0]}], False),
        ([SCORES], [{**SCORES, "data": [0.6, 0.4, 0.1, 0.9]}], True),
        ([SCORES], [{**SCORES, "data": [0.4, 0.6, 0.1, 0.9]}], False),
        ([PRICE], [{**PRICE, "data": [104.0]}], True),
        ([PRICE], [{**PRICE, "data": [106.0]}], False),
        ([PRICE], [{**PRICE, "data": [float("nan")]}], False),
        (
            [{**LABEL, "datatype": "BYTES", "data": ["a", "b"]}],
            [{**LABEL, "datatype": "BYTES", "data": ["a", "c"]}],
            False,
        ),
    ],
)
def test_labels_must_be_equal_and_scores_point_the_same_way(
    ours: list[dict[str, object]], theirs: list[dict[str, object]], same: bool
) -> None:
    assert agree(ours, theirs) is same

"""`python -m serving.controller` as the stack starts it, with a real Envoy and no Airflow anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from threading import Event

import httpx
import pytest

from serving import composition
from serving.control.rollout.advance import Rollouts
from serving.control.rollout.journal import KeptJournal
from serving.control.rollout.plan import Phase, RolloutStep
from serving.gateway.router.kept import LedgerRouter
from serving.metrics.latency import quantile_ms
from serving.types import ALL_STABLE, RouteSettings, Slot, TrafficSplit
from tests.unit.serving.gateway_process import Gateway, gateway_running
from tests.unit.serving.upstream import Pods, Upstream, deployment, pods_running
from tests.unit.serving.world import PLAN

pytestmark = pytest.mark.at_length

SERVICE, RELEASE = "fraud", "fraud-v2-20261121T120000Z"
HALF = replace(PLAN, steps=(RolloutStep(TrafficSplit(50, 50), 3600), RolloutStep(TrafficSplit(0, 100), 3600)))


class Scene:
    """A release at 50 %, steady traffic, a controller."""

    def __init__(self, gateway: Gateway, pods: Pods) -> None:
        self.gateway, self.pods = gateway, pods
        self.stable, self.candidate = pods.start("stable"), pods.start("candidate")
        self.journal = composition.journal_of(gateway.home)
        self.router = composition.router_of(gateway.home)
        self.controller: subprocess.Popen[bytes] | None = None
        self.statuses: list[int] = []

    def start_controller(self) -> None:
        ports = {f"SLIPWAY_PORT_{k.upper()}": str(v) for k, v in asdict(self.gateway.home.ports).items()}
        environment = {**os.environ, **ports, "SLIPWAY_HOME": str(self.gateway.home.root)}
        with (self.gateway.home.logs / "controller.log").open("ab") as log:
            self.controller = subprocess.Popen(
                [sys.executable, "-m", "serving.controller"],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def kill_controller(self) -> None:
        if self.controller:
            self.controller.kill()
            self.controller.wait(10)

    def release(self) -> None:
        """What a controller before this one left in the ledger."""
        stable = deployment(SERVICE, 1, self.stable)
        candidate = deployment(SERVICE, 2, self.candidate, slot=Slot.GREEN)
        with closing(composition.ledger_of(self.gateway.home, {})) as ledger:
            router = LedgerRouter(ledger, composition.told_of(self.gateway.home))
            router.write(SERVICE, ALL_STABLE, stable=stable, candidate=None, at=0)
            rollouts = Rollouts(KeptJournal(ledger), router, now=lambda: datetime.now(UTC))
            rollouts.start(RELEASE, HALF, candidate, RouteSettings(timeout_ms=2000))

    def wait_until_it_answers(self) -> None:
        self.gateway.wait(lambda: self.is_well() and self.journal.load(RELEASE).step == 0, seconds=120)

    def is_well(self) -> bool:
        try:
            return httpx.get(self.controller_url("health")).status_code == 200
        except httpx.TransportError:
            return False

    def controller_url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.gateway.home.ports.controller}/{path}"

    def wait_for(self, phase: Phase, *, seconds: float = 90) -> None:
        self.gateway.wait(
            lambda: self.is_well() and self.journal.load(RELEASE).phase is phase, seconds=seconds
        )

    def send(self, ending: Event) -> None:
        with httpx.Client(base_url=self.gateway.home.gateway_url, timeout=30) as client:
            while not ending.wait(0.02):
                self.statuses.append(client.post(f"/v2/models/{SERVICE}/infer", content=b"{}").status_code)


@pytest.fixture
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    ending = Event()
    with (
        gateway_running(tmp_path_factory.mktemp("home")) as gateway,
        pods_running() as pods,
        ThreadPoolExecutor(1) as pool,
    ):
        made = Scene(gateway, pods)
        made.release()
        made.start_controller()
        made.wait_until_it_answers()
        load = pool.submit(made.send, ending)
        try:
            yield made
        finally:
            ending.set()
            load.result(30)
            made.kill_controller()


def fail(upstream: Upstream) -> None:
    upstream.fault = "error"


def test_a_failing_candidate_is_taken_out_and_no_client_notices(scene: Scene) -> None:
    time.sleep(1)
    none_yet = f'slipway_controller_rollbacks_total{{service="{SERVICE}"}} 0.0'
    assert none_yet in httpx.get(scene.controller_url("metrics")).text
    fail(scene.candidate)
    scene.wait_for(Phase.ROLLED_BACK)
    assert scene.router.read(SERVICE).split == ALL_STABLE
    assert "candidate failed" in scene.journal.load(RELEASE).reason
    assert set(scene.statuses) == {200}
    metrics = httpx.get(scene.controller_url("metrics")).text
    assert f'slipway_controller_rollbacks_total{{service="{SERVICE}"}} 1.0' in metrics


def test_how_long_both_arms_took_is_in_the_records(scene: Scene) -> None:
    scene.candidate.fault = "slow"

    def told() -> tuple[float, float] | None:
        """The median of each arm, once both have one."""
        times = [record.latency for record in scene.journal.records(RELEASE) if record.latency]
        stable, candidate = (quantile_ms(arm, 0.5) for arm in times[-1]) if times else (None, None)
        return (stable, candidate) if stable and candidate else None

    scene.gateway.wait(told, seconds=60)
    quick, slow = told() or (0.0, 0.0)
    assert quick < slow


def test_a_controller_killed_before_the_failure_and_started_after_it_still_finds_it(scene: Scene) -> None:
    scene.gateway.wait(lambda: scene.journal.latest_record(RELEASE) is not None)
    scene.kill_controller()
    fail(scene.candidate)
    time.sleep(2)
    scene.start_controller()
    scene.wait_for(Phase.ROLLED_BACK)
    assert set(scene.statuses) == {200}


def test_a_second_controller_ends_and_says_why(scene: Scene) -> None:
    scene.gateway.wait(lambda: httpx.get(scene.controller_url("health")).status_code == 200)
    first = scene.controller
    scene.start_controller()
    second, scene.controller = scene.controller, first
    assert second
    assert second.wait(30) == 1
    assert "another controller watches" in (scene.gateway.home.logs / "controller.log").read_text()


def test_it_tells_its_health_and_what_it_sees(scene: Scene) -> None:
    labels = f'{{phase="progressing",release="{RELEASE}",service="{SERVICE}"}}'
    expected = f"slipway_release_weight{labels} 50.0"
    scene.gateway.wait(lambda: expected in httpx.get(scene.controller_url("metrics")).text)
    assert httpx.get(scene.controller_url("health")).status_code == 200
    assert "slipway_release_requests_total" in httpx.get(scene.controller_url("metrics")).text
    assert httpx.get(scene.controller_url("nonsense")).status_code == 404

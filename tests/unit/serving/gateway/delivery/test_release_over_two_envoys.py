"""A release moved by the real controller over two real Envoys, one of which stands still in the middle."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from serving import composition
from serving.control.controller.tick import Controller
from serving.control.rollout.journal import KeptJournal
from serving.control.rollout.plan import Hold, Phase, RolloutPlan, RolloutState, RolloutStep
from serving.home import Home, Ports
from serving.ledger.memory import MemoryLedger
from serving.types import RouteSettings, Slot, TrafficSplit
from tests.unit.serving.gateway.delivery.test_two_envoys import SERVICE, Load, World
from tests.unit.serving.gateway_process import free_ports
from tests.unit.serving.upstream import deployment, pods_running
from tests.unit.serving.world import POLICY

RELEASE = f"{SERVICE}-v3-20261121T120000Z"
PLAN = RolloutPlan(
    "canary",
    (
        RolloutStep(TrafficSplit(75, 25), 1),
        RolloutStep(TrafficSplit(50, 50), 1),
        RolloutStep(TrafficSplit(0, 100), 1),
    ),
    max_step_seconds=600,
    watch_seconds=600,
    policy=POLICY,
)


class Release:
    """Of another version, beside what serves in both Envoys."""

    def __init__(self, world: World, root: Path) -> None:
        self.world, self.journal = world, KeptJournal(MemoryLedger())
        revision = world.router.read(SERVICE).revision
        world.router.write(SERVICE, TrafficSplit(100, 0), stable=world.stable, candidate=None, at=revision)
        self.source = composition.metrics_of(world.home)
        self.controller = Controller(
            self.journal, world.router, self.source, now=lambda: datetime.now(UTC), monotonic=time.monotonic
        )
        world.candidate = deployment(SERVICE, 3, world.pods.all[1], slot=Slot.GREEN)
        self.controller.rollouts.start(RELEASE, PLAN, world.candidate, RouteSettings())

    @property
    def state(self) -> RolloutState:
        return self.journal.load(RELEASE)

    def until(self, condition: Callable[[], object], *, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            self.controller.tick()
            time.sleep(0.1)
        assert condition(), (self.state, self.controller.actions)

    def is_held_for(self, words: str) -> bool:
        action = self.controller.actions.get(RELEASE)
        return isinstance(action, Hold) and words in action.reason


@pytest.fixture
def release(tmp_path: Path) -> Iterator[Release]:
    gateway, admin, ads = free_ports(3)
    home = Home(tmp_path, Ports(gateway=gateway, envoy_stats=admin, ads=ads), "ads")
    home.logs.mkdir(parents=True)
    with ExitStack() as running:
        made = Release(World(home, running, running.enter_context(pods_running())), tmp_path)
        yield made
        made.source.close()  # type: ignore[attr-defined]


def test_the_step_holds_for_who_stands_still_and_the_way_back_does_not(release: Release) -> None:
    world, load = release.world, Load(release.world.a)
    assert world.b.process
    with load.running():
        with Load(world.b).running():
            release.until(lambda: release.state.step == 0)
            world.wait(lambda: world.weight("a") == world.weight("b") == 0.25)
        world.b.process.send_signal(signal.SIGSTOP)
        try:
            release.until(lambda: release.state.step == 1)
            release.until(lambda: release.is_held_for("Envoy b has not acknowledged"))
            assert world.weight("a") == 0.5
            world.pods.all[1].fault = "error"
            release.until(lambda: release.state.phase is Phase.ROLLED_BACK)
            world.wait(lambda: world.weight("a") == 0)
        finally:
            world.b.process.send_signal(signal.SIGCONT)
        world.wait(lambda: world.weight("b") == 0)
    assert load.answers[200] > 0
    assert not load.failed


def test_a_release_goes_on_with_the_one_that_is_left_and_the_one_that_comes_back(release: Release) -> None:
    world, load = release.world, Load(release.world.a)
    with load.running():
        release.until(lambda: release.state.step == 0)
        world.b.kill()
        release.until(lambda: release.state.step == 1)
        world.b.start()
        world.wait(lambda: world.weight("b") == 0.5)
        world.end_server()
        world.start_server()
        release.until(lambda: release.state.phase is Phase.WATCHING)
        assert world.weight("a") == world.weight("b") == 1.0
    assert not load.failed

"""One release in trouble at any port, among many: the others are judged, moved on and taken back as ever."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from serving.control.controller.pods import PodWatch
from serving.control.controller.tick import Controller
from serving.control.rollout.plan import Phase, RolloutState, Shift
from serving.metrics.base import EndpointCounters
from serving.platforms.base import DeploymentStatus
from serving.types import ALL_STABLE, DeploymentRef, Endpoint, Route, RouteSettings, Slot
from tests.moving_platform import MovingPlatform
from tests.unit.serving.world import NOTHING, PLAN, World, deployed

pytestmark = pytest.mark.at_length

POISONED = "credit"
OTHERS = [POISONED, *(f"other{number}" for number in range(20))]


class Crowd(World):
    """The release among others; `trouble` is at one port, with the one of POISONED."""

    trouble = ""

    def __init__(self) -> None:
        super().__init__()
        for name in OTHERS:
            stable, candidate = (deployed(n, slot, name) for n, slot in ((1, Slot.BLUE), (2, Slot.GREEN)))
            self.router.write(name, ALL_STABLE, stable=stable, candidate=None, at=0)
            self.rollouts.start(f"{name}-v2-20261121T120000Z", PLAN, candidate, RouteSettings())

    def counters(self) -> dict[str, dict[Endpoint, EndpointCounters]]:
        known = super().counters()
        both = deployed(1, Slot.BLUE).endpoints + deployed(2, Slot.GREEN).endpoints
        known |= {name: dict.fromkeys(both, NOTHING) for name in OTHERS}
        if self.trouble == "counters are nonsense":
            known[POISONED] = dict.fromkeys(known[POISONED])  # type: ignore[misc]
        if self.trouble == "counters are no numbers":
            strange = EndpointCounters(float("nan"), "many", 0, 0, healthy=True)  # type: ignore[arg-type]
            known[POISONED] = dict.fromkeys(known[POISONED], strange)
        return known

    def poison(self, trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trouble = trouble
        where: dict[str, tuple[Any, str]] = {
            "its route cannot be read": (self.router, "read"),
            "its route cannot be written": (self.router, "write"),
            "its counts cannot be written": (self.journal, "append"),
            "its state cannot be written": (self.journal, "save"),
        }
        if trouble in where:
            port, name = where[trouble]
            monkeypatch.setattr(port, name, _raising_for(POISONED, getattr(port, name)))


def _raising_for(service: str, inner: Any) -> Any:
    def call(first: Any, *args: Any, **kwargs: Any) -> Any:
        if str(getattr(first, "service", first)).startswith(service):
            raise RuntimeError("the port is broken")
        return inner(first, *args, **kwargs)

    return call


TROUBLES = [
    "its route cannot be read",
    "its route cannot be written",
    "its counts cannot be written",
    "its state cannot be written",
    "counters are nonsense",
    "counters are no numbers",
]


@pytest.fixture
def crowd(caplog: pytest.LogCaptureFixture) -> Crowd:
    caplog.set_level(logging.CRITICAL)
    return Crowd()


@pytest.mark.parametrize("trouble", TROUBLES)
def test_the_others_go_on(crowd: Crowd, trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd.poison(trouble, monkeypatch)
    crowd.until(Phase.DONE)
    assert crowd.controller.done.errors > 0


@pytest.mark.parametrize("trouble", TROUBLES)
def test_the_others_are_rolled_back(crowd: Crowd, trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd.until(Phase.PROGRESSING, step=1)
    crowd.poison(trouble, monkeypatch)
    crowd.candidate_errors(1.0).tick(4)
    assert (crowd.phase, crowd.split) == (Phase.ROLLED_BACK, ALL_STABLE)


@pytest.mark.parametrize("trouble", [name for name in TROUBLES if name.startswith("counters")])
def test_who_is_counted_as_nonsense_is_counted_by_nobody(crowd: Crowd, trouble: str) -> None:
    """And so it loses its traffic after a while."""
    release = f"{POISONED}-v2-20261121T120000Z"
    state = crowd.journal.load(release)
    crowd.rollouts.carry_out(Shift(0), state, crowd.router.read(POISONED))
    crowd.trouble = trouble
    crowd.tick(64)
    assert crowd.journal.load(release).phase is Phase.ROLLED_BACK
    assert "make no sense" in crowd.journal.load(release).reason


def test_what_holds_one_of_them_may_raise(crowd: Crowd) -> None:
    class Broken:
        def look(self, active: Any, actions: Any, apart: Any) -> None:
            for state in active:
                with apart("what holds it"):
                    self.enforce(state)

        def is_unrecorded(self, state: RolloutState) -> bool:
            return False

        def enforce(self, state: RolloutState) -> bool:
            if state.service == POISONED:
                raise RuntimeError("the spec cannot be read")
            return False

    holds: Any = Broken()
    clocks: dict[str, Any] = {"now": crowd.now, "monotonic": crowd.monotonic}
    crowd.controller = Controller(crowd.journal, crowd.router, crowd, **clocks, holds=holds)
    crowd.until(Phase.DONE)
    assert crowd.router.read(POISONED).split == ALL_STABLE, "no step is taken that nobody allowed"


def test_steps_that_take_long_to_write_leave_time_for_the_next_look(crowd: Crowd) -> None:
    inner = crowd.router.write
    written: list[str] = []

    def slow(service: str, *args: Any, **kwargs: Any) -> Route:
        crowd.uptime += 0.06
        written.append(service)
        return inner(service, *args, **kwargs)

    crowd.router.write = slow  # type: ignore[method-assign]
    for _ in range(40):
        before = len(written)
        crowd.tick()
        assert len(written) - before <= 2
    assert {f"{name}" for name in OTHERS} <= set(written), "each has its turn"


class HangingPlatform(MovingPlatform):
    """Never answers for one service."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def status(self, ref: DeploymentRef) -> DeploymentStatus:
        if ref.service == POISONED:
            self.released.wait(60)
        return super().status(ref)


@pytest.fixture
def hanging() -> Iterator[HangingPlatform]:
    platform = HangingPlatform()
    yield platform
    platform.released.set()


def test_a_platform_that_hangs_for_one_keeps_no_other_from_being_followed(hanging: HangingPlatform) -> None:
    world = World(platform=hanging)
    world.router.write(POISONED, ALL_STABLE, stable=deployed(1, Slot.BLUE, POISONED), candidate=None, at=0)
    pods, ending, stable = PodWatch(hanging, world.router), threading.Event(), world.stable
    threading.Thread(target=pods.run, args=(ending,), kwargs={"every_seconds": 0.01}, daemon=True).start()
    for _ in range(3):
        now, tries = hanging.move(stable.ref), 0
        while (route := world.route.stable) and route.endpoints != now:
            tries += 1
            assert tries < 3000
            ending.wait(0.01)
    ending.set()

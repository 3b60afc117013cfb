"""Routes in the ledger, and what the gateway is told: which of the two goes first, and which one wins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serving.gateway.router.base import DifferentRoute, StaleRoute, TrafficRouter
from serving.gateway.router.kept import LedgerRouter
from serving.gateway.router.memory import MemoryRouter
from serving.ledger import rows
from serving.ledger.base import Unreachable
from serving.ledger.memory import MemoryLedger
from serving.ledger.rows import Row
from serving.types import ALL_STABLE, Route, TrafficSplit
from tests.contract.router_contract import BLUE, GREEN, RouterContract, elsewhere

HALF = TrafficSplit(50, 50)


class Broken(MemoryLedger):
    """`trouble` is when it breaks: before it writes, or after."""

    trouble = ""

    def save(self, *changes: Any, **more: Any) -> tuple[Row, ...]:
        saved = () if self.trouble == "before" else super().save(*changes, **more)
        if self.trouble:
            raise Unreachable("the ledger is gone", remedy="start it")
        return saved


class TestLedgerRouter(RouterContract):
    @pytest.fixture
    def router(self) -> TrafficRouter:
        return LedgerRouter(MemoryLedger(), MemoryRouter())


class Scene:
    """A canary at half of the traffic."""

    def __init__(self) -> None:
        self.ledger, self.told = Broken(), MemoryRouter()
        self.router = LedgerRouter(self.ledger, self.told)
        self.router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=0)
        self.router.write("m", HALF, stable=BLUE, candidate=GREEN, at=1)

    def return_traffic(self) -> Route:
        at = self.router.read("m").revision
        return self.router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=at)

    @property
    def written(self) -> tuple[int, float]:
        row = self.ledger.get(rows.RouteRow, "m")
        return row.generation, row.candidate_weight

    def again(self) -> LedgerRouter:
        """As a process that starts sees it."""
        self.router = LedgerRouter(self.ledger, self.told)
        return self.router


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_step_is_written_down_before_the_gateway_is_told(scene: Scene) -> None:
    scene.ledger.trouble = "before"
    with pytest.raises(Unreachable):
        scene.router.write("m", TrafficSplit(0, 100), stable=BLUE, candidate=GREEN, at=2)
    assert scene.told.read("m").split == scene.router.read("m").split == HALF


def test_a_step_of_which_only_the_ledger_heard_is_told_by_whoever_comes_next(scene: Scene) -> None:
    scene.ledger.trouble = "after"
    with pytest.raises(Unreachable):
        scene.router.write("m", TrafficSplit(0, 100), stable=BLUE, candidate=GREEN, at=2)
    assert scene.told.read("m").split == HALF
    scene.ledger.trouble = ""
    assert scene.router.unacknowledged(scene.again().read("m"))
    scene.router.reconcile()
    assert scene.told.read("m").split == TrafficSplit(0, 100)
    assert not scene.router.unacknowledged(scene.router.read("m"))


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("trouble", ["before", "after"])
def test_a_way_back_waits_for_no_ledger_and_is_written_down_later(
    scene: Scene, trouble: str, is_restarted: bool
) -> None:
    scene.ledger.trouble = trouble
    assert scene.return_traffic().split == scene.told.read("m").split == ALL_STABLE
    scene.router.settle()
    scene.ledger.trouble = ""
    router = scene.again() if is_restarted else scene.router
    router.refresh()
    assert router.read("m").split == ALL_STABLE
    router.settle()
    assert scene.written == (router.read("m").revision, 0)
    assert scene.told.read("m").revision == router.read("m").revision


def test_a_way_back_wins_over_a_step_that_nobody_knew_was_written(scene: Scene) -> None:
    scene.ledger.trouble = "after"
    with pytest.raises(Unreachable):
        scene.router.write("m", TrafficSplit(0, 100), stable=BLUE, candidate=GREEN, at=2)
    scene.return_traffic()
    scene.ledger.trouble = ""
    scene.router.refresh()
    scene.router.settle()
    assert scene.router.read("m").split == scene.told.read("m").split == ALL_STABLE
    assert scene.written == (4, 0)


def test_a_way_back_that_is_written_down_late_ends_no_later_release(scene: Scene) -> None:
    """Whoever took over came to the same, and a new version has begun since."""
    scene.return_traffic()
    other = LedgerRouter(scene.ledger, MemoryRouter())
    other.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=2)
    other.settle()
    new = replace(GREEN, ref=replace(GREEN.ref, bundle_id="b9", version=9))
    other.write("m", ALL_STABLE, stable=BLUE, candidate=new, at=3)
    begun = other.write("m", HALF, stable=BLUE, candidate=new, at=4)
    scene.router.settle()
    assert scene.written == (begun.revision, 50)
    assert scene.told.read("m") == scene.router.read("m") == begun


def test_traffic_that_was_returned_by_hand_is_written_down_and_stays_returned(scene: Scene) -> None:
    scene.told.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=2)
    with pytest.raises(StaleRoute):
        scene.router.write("m", TrafficSplit(0, 100), stable=BLUE, candidate=GREEN, at=2)
    assert scene.router.read("m").split == ALL_STABLE
    assert scene.written == (3, 0)


def test_beside_an_older_ledger_nothing_moves_until_somebody_takes_what_runs(scene: Scene) -> None:
    older = MemoryLedger()
    LedgerRouter(older, MemoryRouter()).write("m", ALL_STABLE, stable=BLUE, candidate=None, at=0)
    router = LedgerRouter(older, scene.told)
    with pytest.raises(DifferentRoute, match="revision 2 of m, and the ledger has 1"):
        router.read("m")
    router.reconcile()
    assert scene.told.read("m").split == HALF
    assert router.adopt("m").split == router.read("m").split == HALF
    assert older.get(rows.RouteRow, "m").candidate_weight == 50


def test_a_service_that_an_older_ledger_does_not_know_is_no_new_one(scene: Scene) -> None:
    router = LedgerRouter(older := MemoryLedger(), scene.told)
    with pytest.raises(DifferentRoute, match="knows nothing of it"):
        router.read("m")
    with pytest.raises(DifferentRoute):
        router.write("m", ALL_STABLE, stable=None, candidate=BLUE, at=0)
    assert older.find(rows.RouteRow) == []
    router.reconcile()
    assert scene.told.read("m").split == HALF
    assert router.adopt("m") == router.read("m") == scene.told.read("m")
    assert older.get(rows.RouteRow, "m").generation == 2


def test_another_controllers_steps_are_learned_and_told_here_too(scene: Scene) -> None:
    follower = LedgerRouter(scene.ledger, told := MemoryRouter())
    follower.reconcile()
    scene.router.write("m", TrafficSplit(0, 100), stable=BLUE, candidate=GREEN, at=2)
    follower.refresh()
    assert told.read("m").split == follower.read("m").split == TrafficSplit(0, 100)


def test_where_pods_are_is_no_decision_and_is_kept_by_the_next_one(scene: Scene) -> None:
    scene.router.move(elsewhere(GREEN))
    assert scene.router.read("m").candidate == elsewhere(GREEN)
    assert scene.written == (2, 50)
    after = scene.router.write("m", TrafficSplit(0, 100), stable=BLUE, candidate=GREEN, at=2)
    assert after.candidate == elsewhere(GREEN)
    row = scene.ledger.get(rows.RouteRow, "m")
    assert Route.from_json(row.document) == replace(after, revision=3)

"""What served at a moment, by the history of the routes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from serving.control.queries.traffic import Traffic
from serving.gateway.router.history import LedgerHistory
from serving.gateway.router.kept import row_of
from serving.ledger.memory import MemoryLedger
from serving.ledger.rows import RouteChangeRow
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, Route, Slot, TrafficSplit

START = datetime(2026, 11, 21, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def deployment(version: int) -> Deployment:
    return Deployment(DeploymentRef("m", Slot.BLUE, f"b{version}", version), (Endpoint("127.0.0.1", 1),))


class Ticks:
    """Every look looks anew."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        self.at += 10.0
        return self.at


class Kept(LedgerHistory):
    """A history that a test writes."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()
        super().__init__(self.ledger)

    def append(self, route: Route, *, at: datetime) -> None:
        self.ledger.save(RouteChangeRow.of(replace(row_of(route, at=at), generation=route.revision)))


@pytest.fixture
def history() -> Kept:
    """v1 alone, v2 at 20 %, back, v2 again to the end."""
    written = Kept()
    one, two = deployment(1), deployment(2)
    written.append(Route("m", 1, ALL_STABLE, one, None), at=at(0))
    written.append(Route("m", 2, TrafficSplit(80, 20), one, two), at=at(10))
    written.append(Route("m", 3, ALL_STABLE, one, two), at=at(20))
    written.append(Route("m", 4, TrafficSplit(0, 100), one, two), at=at(30))
    written.append(Route("m", 5, ALL_STABLE, two, None), at=at(40))
    return written


def served(traffic: Traffic, minutes: float) -> list[tuple[int, float]]:
    return [(a.version, a.weight) for m in traffic.at(at(minutes)).models for a in m.serving]


def test_any_moment_can_be_asked_for(history: Kept) -> None:
    traffic = Traffic(history, monotonic=Ticks())
    assert served(traffic, -1) == []
    assert served(traffic, 5) == [(1, 100)]
    assert served(traffic, 10) == [(1, 80), (2, 20)]
    assert served(traffic, 25) == [(1, 100)]
    assert served(traffic, 35) == [(2, 100)]
    assert traffic.at(at(-1)).known_since == at(0)


def test_since_means_without_a_pause(history: Kept) -> None:
    traffic = Traffic(history, monotonic=Ticks())
    assert traffic.since("m") == {2: at(30)}
    assert traffic.at(at(25)).models[0].serving[0].since == at(0)
    assert traffic.since("unknown") == {}


def test_what_is_appended_is_read_on(history: Kept) -> None:
    traffic = Traffic(history, monotonic=Ticks())
    assert served(traffic, 60) == [(2, 100)]
    history.append(Route("m", 6, ALL_STABLE, deployment(3), None), at=at(50))
    assert served(traffic, 60) == [(3, 100)]


def test_a_clock_set_back_hides_nothing(history: Kept) -> None:
    history.append(Route("m", 6, ALL_STABLE, deployment(3), None), at=at(5))
    traffic = Traffic(history, monotonic=Ticks())
    assert served(traffic, 5) == [(3, 100)]
    assert served(traffic, 60) == [(2, 100)]

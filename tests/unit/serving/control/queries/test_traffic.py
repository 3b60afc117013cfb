"""What served at a moment, by the history of the routes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serving.control.queries.traffic import Traffic
from serving.gateway.router.history import RouteHistoryFile
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, Route, Slot, TrafficSplit

START = datetime(2026, 11, 21, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def deployment(version: int) -> Deployment:
    return Deployment(DeploymentRef("m", Slot.BLUE, f"b{version}", version), (Endpoint("127.0.0.1", 1),))


@pytest.fixture
def history(tmp_path: Path) -> RouteHistoryFile:
    """v1 alone, v2 at 20 %, back, v2 again to the end."""
    written = RouteHistoryFile(tmp_path / "routes.jsonl")
    one, two = deployment(1), deployment(2)
    written.append(Route("m", 1, ALL_STABLE, one, None), at=at(0))
    written.append(Route("m", 2, TrafficSplit(80, 20), one, two), at=at(10))
    written.append(Route("m", 3, ALL_STABLE, one, two), at=at(20))
    written.append(Route("m", 4, TrafficSplit(0, 100), one, two), at=at(30))
    written.append(Route("m", 5, ALL_STABLE, two, None), at=at(40))
    return written


def served(traffic: Traffic, minutes: float) -> list[tuple[int, float]]:
    return [(a.version, a.weight) for m in traffic.at(at(minutes)).models for a in m.serving]


def test_any_moment_can_be_asked_for(history: RouteHistoryFile) -> None:
    traffic = Traffic(history)
    assert served(traffic, -1) == []
    assert served(traffic, 5) == [(1, 100)]
    assert served(traffic, 10) == [(1, 80), (2, 20)]
    assert served(traffic, 25) == [(1, 100)]
    assert served(traffic, 35) == [(2, 100)]
    assert traffic.at(at(-1)).known_since == at(0)


def test_since_means_without_a_pause(history: RouteHistoryFile) -> None:
    traffic = Traffic(history)
    assert traffic.since("m") == {2: at(30)}
    assert traffic.at(at(25)).models[0].serving[0].since == at(0)
    assert traffic.since("unknown") == {}


def test_what_is_appended_is_read_on(history: RouteHistoryFile) -> None:
    traffic = Traffic(history)
    assert served(traffic, 60) == [(2, 100)]
    history.append(Route("m", 6, ALL_STABLE, deployment(3), None), at=at(50))
    assert served(traffic, 60) == [(3, 100)]


def test_a_clock_set_back_hides_nothing(history: RouteHistoryFile) -> None:
    history.append(Route("m", 6, ALL_STABLE, deployment(3), None), at=at(5))
    traffic = Traffic(history)
    assert served(traffic, 5) == [(3, 100)]
    assert served(traffic, 60) == [(2, 100)]


def test_a_new_file_is_read_from_its_beginning(history: RouteHistoryFile) -> None:
    traffic = Traffic(history)
    assert served(traffic, 60) == [(2, 100)]
    history.path.rename(history.path.with_suffix(".old"))
    history.append(Route("m", 7, ALL_STABLE, deployment(9), None), at=at(50))
    assert served(traffic, 60) == [(9, 100)]

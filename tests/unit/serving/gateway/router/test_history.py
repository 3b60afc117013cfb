"""Any moment's routes can be told afterwards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.gateway.router.history import RouteHistoryFile
from serving.home import Home, Ports
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, Slot, TrafficSplit

START = datetime(2026, 11, 21, 12, tzinfo=UTC)


def deployment(version: int, slot: Slot) -> Deployment:
    return Deployment(DeploymentRef("m", slot, f"b{version}", version), (Endpoint("127.0.0.1", 9),))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, Ports())


def test_every_write_of_a_route_is_a_line_of_its_history(home: Home) -> None:
    ticks = iter(range(10))
    router = EnvoyFileRouter(home, now=lambda: START + timedelta(seconds=next(ticks)))
    first, second = deployment(1, Slot.BLUE), deployment(2, Slot.GREEN)
    router.write("m", ALL_STABLE, stable=first, candidate=None, at=0)
    router.write("m", TrafficSplit(80, 20), stable=first, candidate=second, at=1)

    changes, offset = RouteHistoryFile(home.route_history).read()

    assert [change.revision for change in changes] == [1, 2]
    assert [(arm.version, arm.weight) for arm in changes[1].arms] == [(1, 80), (2, 20)]
    assert changes[1].at == START + timedelta(seconds=1)
    assert RouteHistoryFile(home.route_history).read(offset=offset) == ([], offset)


def test_a_line_half_written_waits_and_a_torn_one_is_skipped(home: Home) -> None:
    router = EnvoyFileRouter(home, now=lambda: START)
    router.write("m", ALL_STABLE, stable=deployment(1, Slot.BLUE), candidate=None, at=0)
    history = RouteHistoryFile(home.route_history)
    whole = home.route_history.read_bytes()
    home.route_history.write_bytes(whole + whole[:20])
    changes, offset = history.read()
    assert (len(changes), offset) == (1, len(whole))

    home.route_history.write_bytes(whole + whole[:20] + b"\n" + whole)
    assert len(history.read(offset=offset)[0]) == 1


def test_a_line_that_a_full_disk_cut_off_costs_the_next_one_nothing(home: Home) -> None:
    router = EnvoyFileRouter(home, now=lambda: START)
    router.write("m", ALL_STABLE, stable=deployment(1, Slot.BLUE), candidate=None, at=0)
    with home.route_history.open("ab") as file:
        file.write(b'{"at": "2026')
    router.write("m", ALL_STABLE, stable=deployment(2, Slot.GREEN), candidate=None, at=1)
    router.write("m", ALL_STABLE, stable=deployment(3, Slot.BLUE), candidate=None, at=2)
    assert [change.revision for change in RouteHistoryFile(home.route_history).read()[0]] == [1, 2, 3]


def test_traffic_moves_though_no_line_can_be_written(home: Home) -> None:
    home.route_history.parent.parent.mkdir(exist_ok=True)
    home.route_history.parent.write_text("a file where the folder should be")
    router = EnvoyFileRouter(home)
    assert router.write("m", ALL_STABLE, stable=deployment(1, Slot.BLUE), candidate=None, at=0).revision == 1

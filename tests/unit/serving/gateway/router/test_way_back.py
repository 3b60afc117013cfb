"""A candidate with traffic has its way back ready, for a disk that takes no new file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serving.gateway.bootstrap import prepare
from serving.gateway.router import envoy_file
from serving.gateway.router.base import StaleRoute
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.home import Home, Ports
from serving.types import ALL_STABLE, RouteSettings, TrafficSplit
from tests.contract.router_contract import BLUE, GREEN, elsewhere
from tests.unit.serving.full_disk import Disk

HALF = TrafficSplit(50, 50)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def router(tmp_path: Path) -> EnvoyFileRouter:
    home = Home(tmp_path, Ports())
    prepare(home)
    router = EnvoyFileRouter(home)
    router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=0)
    return router


def files(router: EnvoyFileRouter) -> set[str]:
    """Beside stable's endpoints alone."""
    return {path.name for path in router.file("m").parent.iterdir()} - {"stable.json"}


def test_a_full_disk_does_not_keep_traffic_from_stable(router: EnvoyFileRouter, disk: Disk) -> None:
    shifted = router.write("m", HALF, stable=BLUE, candidate=GREEN, at=1)
    disk.full = True
    back = router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=2)
    assert back == replace(shifted, revision=3, split=ALL_STABLE)
    assert router.read("m") == EnvoyFileRouter(router._home).read("m") == back
    disk.full = False
    with pytest.raises(StaleRoute):
        router.write("m", TrafficSplit(0, 100), stable=BLUE, candidate=GREEN, at=2)
    assert router.write("m", HALF, stable=BLUE, candidate=GREEN, at=3).revision == 4


def test_a_full_disk_takes_no_other_write(router: EnvoyFileRouter, disk: Disk) -> None:
    shifted = router.write("m", HALF, stable=BLUE, candidate=GREEN, at=1)
    disk.full = True
    for split, stable, candidate, settings in (
        (TrafficSplit(0, 100), BLUE, GREEN, None),
        (ALL_STABLE, GREEN, None, None),
        (ALL_STABLE, BLUE, GREEN, RouteSettings(timeout_ms=7)),
    ):
        with pytest.raises(OSError, match="No space"):
            router.write("m", split, stable=stable, candidate=candidate, at=2, settings=settings)
    with pytest.raises(OSError, match="No space"):
        router.move(elsewhere(BLUE))
    assert router.read("m") == shifted
    assert router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=2).split == ALL_STABLE


def test_pods_that_moved_keep_the_way_back_open(router: EnvoyFileRouter, disk: Disk) -> None:
    router.write("m", HALF, stable=BLUE, candidate=GREEN, at=1)
    router.move(elsewhere(BLUE))
    disk.full = True
    back = router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=2)
    assert (back.split, back.stable) == (ALL_STABLE, elsewhere(BLUE))
    assert router.read("m") == back


def test_a_disk_that_filled_up_while_pods_moved_takes_the_way_back_to_where_they_are(
    router: EnvoyFileRouter, disk: Disk
) -> None:
    router.write("m", HALF, stable=BLUE, candidate=GREEN, at=1)
    before = router.file("m").read_bytes()
    router.move(elsewhere(BLUE))
    router.file("m").write_bytes(before)
    disk.full = True
    back = router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=2)
    assert (back.split, back.stable) == (ALL_STABLE, elsewhere(BLUE))


def test_no_candidate_gets_traffic_without_a_way_back(
    router: EnvoyFileRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write_file = envoy_file.write_file

    def no_way_back(path: Path, content: bytes) -> None:
        written.append(path.name)
        if path.name != "endpoints.json":
            raise OSError("No space left on device")
        write_file(path, content)

    monkeypatch.setattr(envoy_file, "write_file", no_way_back)
    with pytest.raises(OSError, match="No space"):
        router.write("m", HALF, stable=BLUE, candidate=GREEN, at=1)
    assert router.read("m").split == ALL_STABLE
    assert "endpoints.json" not in written


def test_after_a_crash_between_the_two_files_the_older_route_can_go_back(
    router: EnvoyFileRouter, disk: Disk
) -> None:
    router.write("m", HALF, stable=BLUE, candidate=GREEN, at=1)
    before = router.file("m").read_bytes()
    router.write("m", TrafficSplit(10, 90), stable=BLUE, candidate=GREEN, at=2)
    router.file("m").write_bytes(before)
    disk.full = True
    back = router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=2)
    assert (back.split, router.read("m")) == (ALL_STABLE, back)
    assert back.revision > 2


def test_the_way_back_goes_with_the_traffic(router: EnvoyFileRouter) -> None:
    assert files(router) == {"endpoints.json", "lock"}
    router.write("m", HALF, stable=BLUE, candidate=GREEN, at=1)
    assert files(router) == {"all-stable.json", "endpoints.json", "lock"}
    router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=2)
    assert files(router) == {"endpoints.json", "lock"}


def test_one_left_over_from_an_older_route_is_not_taken(router: EnvoyFileRouter, disk: Disk) -> None:
    router.write("m", HALF, stable=BLUE, candidate=GREEN, at=1)
    way_back = router.file("m").with_name("all-stable.json")
    old = way_back.read_bytes()
    now = router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=2)
    disk.full = True
    for content in (old, old[:100], b"{}"):
        way_back.write_bytes(content)
        with pytest.raises(OSError, match="No space"):
            router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=3)
        assert router.read("m") == now

"""The disk gets full during a canary: traffic goes back first, and the state follows when there is space."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from model_store.errors import Retryable
from model_store.unwritable import DiskFull
from serving.control.rollout.plan import Phase
from serving.controller import _problem
from serving.gateway.bootstrap import prepare
from serving.gateway.delivery.base import Nobody
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.home import Home, Ports
from serving.ledger.base import Change, Fence
from serving.ledger.memory import MemoryLedger
from serving.ledger.rows import Row
from serving.types import ALL_STABLE, TrafficSplit
from tests.unit.serving.controller_port import serve
from tests.unit.serving.full_disk import Disk
from tests.unit.serving.gateway_process import free_ports
from tests.unit.serving.world import RELEASE, SERVICE, World

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def world(tmp_path: Path, disk: Disk) -> World:
    """At 50 %, told to Envoy by files, its ledger on the same disk."""
    home = Home(tmp_path, Ports())
    prepare(home)
    world = World(ledger=LedgerOnDisk(disk), told=EnvoyFileRouter(home))
    return world.until(Phase.PROGRESSING, step=1)


class LedgerOnDisk(MemoryLedger):
    """One that cannot be written while the disk is full."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk

    def save(self, *changes: Change, fence: Fence | None = None) -> tuple[Row, ...]:
        if self._disk.full:
            raise DiskFull("ledger.db: No space left on device", remedy="make space")
        return super().save(*changes, fence=fence)


def test_a_failing_candidate_loses_its_traffic_and_the_state_follows(world: World, disk: Disk) -> None:
    disk.full = True
    world.candidate_errors(1.0).tick(4)
    assert (world.split, world.phase) == (ALL_STABLE, Phase.PROGRESSING)
    disk.full = False
    world.tick()
    assert (world.split, world.phase) == (ALL_STABLE, Phase.ROLLED_BACK)
    assert "candidate failed" in world.state.reason
    assert world.controller.rollbacks == {SERVICE: 1}


@pytest.mark.parametrize("trouble", ["silent", "uncounted"])
def test_the_state_follows_also_where_without_traffic_there_is_nothing_to_see(
    world: World, disk: Disk, trouble: str
) -> None:
    disk.full = True
    world.silent, world.envoy_answers = trouble == "silent", trouble != "uncounted"
    world.tick(70)
    assert (world.split, world.phase) == (ALL_STABLE, Phase.PROGRESSING)
    world.silent, world.envoy_answers = False, True
    world.tick(70)
    disk.full = False
    assert world.tick().phase is Phase.ROLLED_BACK


def test_a_rollback_that_cannot_be_written_down_writes_no_route_again_and_again(
    world: World, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = world.journal.save
    monkeypatch.setattr(world.journal, "save", lambda *_: (_ for _ in ()).throw(OSError("read-only")))
    world.candidate_errors(1.0).tick(4)
    revision = world.route.revision
    world.tick(20)
    assert (world.split, world.route.revision) == (ALL_STABLE, revision)
    monkeypatch.setattr(world.journal, "save", save)
    assert world.tick().phase is Phase.ROLLED_BACK


def test_weight_that_comes_back_meanwhile_is_taken_again(world: World, disk: Disk) -> None:
    half, revision = world.split, world.route.revision
    disk.full = True
    world.candidate_errors(1.0).tick(4)
    disk.full = False
    world.router.write(SERVICE, half, stable=world.stable, candidate=world.candidate, at=world.route.revision)
    disk.full = True
    assert world.tick().split == ALL_STABLE
    assert world.route.revision > revision + 1


def test_the_controller_says_that_it_is_not_well_until_the_rollback_is_carried_out(
    world: World, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.monotonic", world.monotonic)
    assert _problem(world.controller, Nobody()) == ""
    disk.full = True
    world.candidate_errors(1.0).tick(4)
    assert RELEASE in _problem(world.controller, Nobody())
    disk.full = False
    world.tick()
    assert _problem(world.controller, Nobody()) == ""


def test_health_says_what_ails_the_controller(world: World) -> None:
    [port] = free_ports(1)
    find_problem = [""]
    server = serve(world.controller, port, find_problem=lambda: find_problem[0])
    try:
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        find_problem[0] = "no tick lately"
        answer = httpx.get(f"http://127.0.0.1:{port}/health")
        assert (answer.status_code, answer.text) == (503, "no tick lately\n")
    finally:
        server.shutdown()


def test_a_person_gets_the_traffic_back_and_is_told_what_is_missing(world: World, disk: Disk) -> None:
    disk.full = True
    with pytest.raises(Retryable, match="all its traffic is at stable") as told:
        world.rollouts.roll_back(RELEASE, reason="Ada")
    assert "space" in told.value.remedy
    assert (world.split, world.phase) == (ALL_STABLE, Phase.PROGRESSING)
    with pytest.raises(Retryable):
        world.rollouts.roll_back(RELEASE, reason="Ada")
    disk.full = False
    assert world.tick().phase is Phase.ROLLED_BACK
    assert world.split == ALL_STABLE


def test_a_shift_half_done_when_the_disk_got_full_does_not_come_back(world: World, disk: Disk) -> None:
    state, route = world.state, world.route
    half_done = world.journal.save(
        replace(state, step=2, route_revision=route.revision), world.journal.timeline(RELEASE)[0]
    )
    disk.full = True
    with pytest.raises(DiskFull, match="No space"):
        world.rollouts.mend(RELEASE)
    world.candidate_errors(1.0).tick(4)
    assert (world.split, world.state) == (ALL_STABLE, half_done)
    disk.full = False
    world.tick()
    assert (world.split, world.phase) == (ALL_STABLE, Phase.ROLLED_BACK)


def test_without_a_way_back_a_full_disk_keeps_the_controller_trying(world: World, disk: Disk) -> None:
    way_back = EnvoyFileRouter.file(world.told, SERVICE).with_name("all-stable.json")  # type: ignore[arg-type]
    way_back.unlink()
    disk.full = True
    world.candidate_errors(1.0).tick(4)
    assert world.split == TrafficSplit(50, 50)
    assert world.controller.pending
    disk.full = False
    world.tick()
    assert (world.split, world.phase, world.controller.pending) == (ALL_STABLE, Phase.ROLLED_BACK, {})

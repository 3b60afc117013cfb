"""A home in which a release was under way when Slipway was renewed: nothing of it is lost or read otherwise.

`home_before_refs` was written by the last Slipway whose deployments held what they are and where in one: a
canary of `fraud` at 10 %.
"""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from model_store.types import Bundle, GateReport, ModelRef
from serving.control.controller.pods import PodWatch
from serving.control.rollout.advance import Rollouts
from serving.control.rollout.decide import Observation
from serving.control.rollout.journal import KeptJournal
from serving.control.rollout.plan import Phase
from serving.gateway.bootstrap import prepare
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.gateway.router.kept import LedgerRouter
from serving.home import Home, Ports
from serving.ledger.home_files import MOVED
from serving.ledger.importing import import_home
from serving.ledger.memory import MemoryLedger
from serving.platforms.base import DeploymentSpec
from serving.platforms.local import LocalPlatform
from serving.types import (
    ALL_STABLE,
    Deployment,
    DeploymentId,
    DeploymentRef,
    Endpoint,
    Outcome,
    Slot,
    TrafficSplit,
    Verdict,
)
from tests.moving_platform import MovingPlatform

RELEASE = "fraud-v2-20261121T120000Z"
BEGAN = datetime(2026, 11, 21, 12, tzinfo=UTC)
STABLE, CANDIDATE = (
    Deployment(DeploymentRef("fraud", slot, f"{version:024x}", version), (Endpoint("127.0.0.1", port),))
    for version, slot, port in ((1, Slot.BLUE, 8501), (2, Slot.GREEN, 8502))
)


class Upgraded:
    def __init__(self, root: Path) -> None:
        shutil.copytree(Path(__file__).with_name("home_before_refs"), root)
        self.home = Home(root, Ports())
        prepare(self.home)
        ledger = MemoryLedger()
        import_home(root, ledger, at=BEGAN, kinds=MOVED)
        self.told = EnvoyFileRouter(self.home)
        self.journal, self.router = KeptJournal(ledger), LedgerRouter(ledger, self.told)
        self.at = BEGAN + timedelta(seconds=10)
        self.rollouts = Rollouts(self.journal, self.router, now=lambda: self.at)


@pytest.fixture
def upgraded(tmp_path: Path) -> Upgraded:
    return Upgraded(tmp_path / "home")


def test_what_was_written_down_says_the_same(upgraded: Upgraded) -> None:
    route = upgraded.router.read("fraud")
    assert (route.stable, route.candidate) == (STABLE, CANDIDATE)
    assert route.split == TrafficSplit(90, 10)
    assert LocalPlatform(upgraded.home).deployments() == [STABLE.ref, CANDIDATE.ref]
    assert DeploymentId.parse(upgraded.journal.load(RELEASE).deployment_id).bundle_id == CANDIDATE.bundle_id


def test_the_release_goes_on_from_where_it_was(upgraded: Upgraded) -> None:
    passed = Observation(Verdict(Outcome.PASS, (), upgraded.at), 5.0)
    state, _ = upgraded.rollouts.advance(
        upgraded.journal.load(RELEASE), upgraded.router.read("fraud"), passed
    )
    assert (state.phase, state.step) == (Phase.PROGRESSING, 1)
    assert upgraded.router.read("fraud").split == TrafficSplit(50, 50)


def test_it_is_rolled_back_to_where_stables_pods_are_now(upgraded: Upgraded) -> None:
    platform = MovingPlatform()
    bundle = Bundle(STABLE.bundle_id, ModelRef("fraud", 1), (), GateReport("", ()), Path())
    platform.apply(STABLE.ref, DeploymentSpec(bundle, replicas=1))
    PodWatch(platform, upgraded.router).look()
    state = upgraded.rollouts.roll_back(RELEASE, reason="users complain")
    route = upgraded.router.read("fraud")
    assert (state.phase, route.split) == (Phase.ROLLED_BACK, ALL_STABLE)
    assert route.stable == Deployment(STABLE.ref, platform.status(STABLE.ref).endpoints)


def test_the_slipway_of_before_reads_what_this_one_writes(upgraded: Upgraded) -> None:
    upgraded.router.write("fraud", ALL_STABLE, stable=STABLE, candidate=CANDIDATE, at=3)
    saved = json.loads(upgraded.told.file("fraud").read_bytes())
    locality = saved["resources"][0]["endpoints"][0]
    record = locality["metadata"]["filter_metadata"]["slipway"]["stable"]
    assert record == {
        "id": STABLE.id,
        "service": "fraud",
        "slot": "blue",
        "bundle_id": STABLE.bundle_id,
        "version": 1,
        "endpoints": [{"host": "127.0.0.1", "port": 8501}],
    }

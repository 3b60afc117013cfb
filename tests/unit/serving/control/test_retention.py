"""What serves, is on its way, or may be gone back to is never forgotten; the rest is, when it is old."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_store.errors import Permanent
from serving import composition
from serving.cli.app import app
from serving.composition import wire
from serving.control.analysis.policy import AnalysisPolicy
from serving.control.controller_link import ControllerDown
from serving.control.queries import outcomes
from serving.control.retention import Retention, needed, reclaimable, tidy
from serving.control.rollout.journal import KeptJournal, TimelineEvent, release_id
from serving.control.rollout.lock import Claim, ReleaseLock
from serving.control.rollout.plan import Phase, RolloutPlan, RolloutState, RolloutStep
from serving.control.routes_client import RoutesClient
from serving.gateway.router.kept import LedgerRouter
from serving.gateway.router.memory import MemoryRouter
from serving.home import Home
from serving.ledger.rows import ReleaseRecord
from serving.local_stack.prepare import prepare
from serving.platforms.pods import PodRecord, write_record
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, Slot, TrafficSplit
from tests.ledgers import ledger_in_memory, ledger_of

__all__ = ["ledger_in_memory"]
pytestmark = pytest.mark.usefixtures("ledger_in_memory")

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
POLICY = AnalysisPolicy(
    alpha=0.001,
    max_error_rate=0.01,
    error_tolerance=0.005,
    latency_objective_ms=100,
    max_slow_share=0.01,
    min_requests=50,
)
PLAN = RolloutPlan("canary", (RolloutStep(TrafficSplit(0, 100), 1),), 60, 60, POLICY)


def bundle_id(number: int) -> str:
    return f"{number:024x}"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A store of twenty old bundles, each with an artifact of its own."""
    home = Home.locate({"SLIPWAY_HOME": str(tmp_path)})
    for number in range(20):
        bundle, artifact = (
            home.store / "bundles" / bundle_id(number),
            home.store / "artifacts" / bundle_id(number),
        )
        for folder in (bundle, artifact):
            folder.mkdir(parents=True)
            (folder / "model.onnx").write_bytes(b"x" * 1000)
        manifest = {"artifacts": [{"digest": f"sha256:{bundle_id(number)}"}]}
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        for folder in (bundle, artifact):
            old = time.time() - 90 * 86_400
            os.utime(folder, (old, old))
    return home


def deployment(number: int, slot: Slot = Slot.BLUE, service: str = "credit-risk") -> Deployment:
    identity = bundle_id(number)
    return Deployment(DeploymentRef(service, slot, identity, number), (Endpoint("127.0.0.1", 8500),))


def released(home: Home, number: int, phase: Phase) -> None:
    """The release of version `number`, asked for `number` hours after noon."""
    at = NOON + timedelta(hours=number)
    state = RolloutState(
        release_id=release_id("credit-risk", number, at=at),
        service="credit-risk",
        version=number,
        previous_version=None,
        plan=PLAN,
        step=0,
        step_started_at=at,
        phase=phase,
        generation=0,
        deployment_id=deployment(number).id,
        started_at=at,
        route_revision=1,
    )
    KeptJournal(ledger_of(home)).create(state, TimelineEvent(at, "test", "it", 0))


def left(home: Home, kind: str = "bundles") -> set[int]:
    return {int(path.name, 16) for path in (home.store / kind).iterdir()}


def test_what_serves_and_what_is_warm_stays(home: Home) -> None:
    router = LedgerRouter(ledger_of(home), MemoryRouter())
    stable, candidate = deployment(1), deployment(2, Slot.GREEN)
    router.write("credit-risk", TrafficSplit(95, 5), stable=stable, candidate=candidate, at=0)
    router.write("fraud", ALL_STABLE, stable=deployment(4, service="fraud"), candidate=None, at=0)
    write_record(home, PodRecord(deployment(3), Path("bundle"), ""))
    tidy(wire(home), now=datetime.now(UTC))
    assert left(home) == left(home, "artifacts") == {1, 2, 3, 4}


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.WATCHING])
def test_what_is_on_its_way_stays(home: Home, phase: Phase) -> None:
    released(home, 7, phase)
    tidy(wire(home), now=datetime.now(UTC))
    assert left(home) == {7}


def test_the_versions_promoted_last_stay_to_go_back_to(home: Home) -> None:
    for number in range(10):
        # Every other one was rolled back: those are no use to anybody, however new.
        released(home, number, Phase.DONE if number % 2 else Phase.ROLLED_BACK)
    assert needed(wire(home), Retention(versions=3)).bundles == {bundle_id(number) for number in (5, 7, 9)}


def test_a_version_released_again_and_again_counts_once(home: Home) -> None:
    for number in (1, 2):
        released(home, number, Phase.DONE)
    journal = KeptJournal(ledger_of(home))
    again = journal.releases("credit-risk")[1]
    for hours in (5, 6, 7):
        at = NOON + timedelta(hours=hours)
        state = replace(again, release_id=release_id("credit-risk", 2, at=at), started_at=at)
        journal.create(state, TimelineEvent(at, "test", "it", 0))
    assert needed(wire(home), Retention(versions=2)).bundles == {bundle_id(1), bundle_id(2)}


def test_what_is_young_stays(home: Home) -> None:
    os.utime(home.store / "bundles" / bundle_id(5))
    os.utime(home.store / "artifacts" / bundle_id(6))
    done = tidy(wire(home), now=datetime.now(UTC))
    assert left(home) == {5}
    assert left(home, "artifacts") == {5, 6}
    assert len(done.bundles) == 19


def test_what_could_be_removed_is_what_is_removed(home: Home) -> None:
    released(home, 7, Phase.DONE)
    found = reclaimable(wire(home), now=datetime.now(UTC))
    size = found.size_bytes
    assert left(home) == set(range(20)), "looking removes nothing"
    done = tidy(wire(home), now=datetime.now(UTC))
    assert done.size_bytes == size > 38_000
    assert {path.name for path in found.bundles} == set(done.bundles)
    assert reclaimable(wire(home), now=datetime.now(UTC)).size_bytes == 0


APPROVAL = NOON - timedelta(days=60)


def asked(home: Home, number: int, *, at: datetime = APPROVAL, dry_run: bool = False) -> str:
    """A release whose run published bundle `number` at that time; returns its id."""
    name = release_id("credit-risk", number, at=at)
    digest = home.store / "blobs" / bundle_id(number)
    digest.parent.mkdir(parents=True, exist_ok=True)
    digest.write_bytes(b"{}")
    os.utime(digest, (0, 0))
    built = {"id": bundle_id(number), "at": at.isoformat(), "gated": [f"sha256:{digest.name}"]}
    ledger_of(home).save(
        ReleaseRecord(
            id=name,
            model="credit-risk",
            version=number,
            requested_at=at,
            requested_by="ada",
            document={"id": name, "request": {"dry_run": dry_run}, "bundles": [built]},
        )
    )
    return name


def ended(home: Home, name: str, at: datetime) -> None:
    outcomes.save(ledger_of(home), outcomes.ReleaseOutcome(name, "blocked", "", at))


def test_a_bundle_that_waits_for_people_stays_however_long(home: Home) -> None:
    asked(home, 7)
    home.config.write_text('{"retention": {"days": 1, "versions": 2}}')
    tidy(wire(home), now=datetime.now(UTC))
    assert left(home) == left(home, "artifacts") == {7}
    assert left(home, "blobs") == {7}, "its run reads the gates' results again when it ends"


def test_what_ended_before_traffic_goes(home: Home) -> None:
    ended(home, asked(home, 7), APPROVAL + timedelta(hours=1))
    asked(home, 8, dry_run=True)
    tidy(wire(home), now=datetime.now(UTC))
    assert left(home) == left(home, "blobs") == set()


def test_a_repeated_run_has_not_ended_by_how_it_ended_before(home: Home) -> None:
    ended(home, asked(home, 7), APPROVAL - timedelta(hours=1))
    tidy(wire(home), now=datetime.now(UTC))
    assert left(home) == {7}


def test_what_waits_for_its_turn_again_stays(home: Home) -> None:
    """A run that was cleared after it ended, and has not come to publish again."""
    for number, claims in ((7, "holds"), (8, "waits"), (9, "neither")):
        name = asked(home, number)
        ended(home, name, APPROVAL + timedelta(hours=1))
        if claims != "neither":
            ReleaseLock(ledger_of(home)).acquire("credit-risk", Claim(NOON + timedelta(hours=number), name))
    tidy(wire(home), now=datetime.now(UTC))
    assert left(home) == {7, 8}


def test_a_release_that_cannot_be_read_stops_everything(home: Home) -> None:
    row = ledger_of(home).get(ReleaseRecord, asked(home, 7))
    ledger_of(home).save(replace(row, document={**row.document, "bundles": [{}]}))
    with pytest.raises(KeyError):
        tidy(wire(home), now=datetime.now(UTC))
    assert left(home) == set(range(20))


def test_a_controller_that_does_not_answer_stops_everything(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composition, "router_of", RoutesClient)
    with pytest.raises(ControllerDown):
        tidy(wire(home), now=datetime.now(UTC))
    assert left(home) == set(range(20))


def test_retention_is_kept_in_the_configuration_and_survives_up(home: Home) -> None:
    prepare(home, ())
    assert json.loads(home.config.read_text())["retention"] == {"days": 30, "versions": 5}
    home.config.write_text(json.dumps({**json.loads(home.config.read_text()), "retention": {"versions": 9}}))
    prepare(home, ())
    assert Retention.of(home) == Retention(days=30, versions=9)


@pytest.mark.parametrize(
    "written", ['{"days": 0}', '{"versions": 1}', '{"versions": 2.5}', '{"weeks": 2}', "7", '{"days": "30"}']
)
def test_a_retention_that_makes_no_sense_removes_nothing(home: Home, written: str) -> None:
    home.config.write_text(f'{{"retention": {written}}}')
    with pytest.raises(Permanent, match=r'Write {"days": 30, "versions": 5}'):
        tidy(wire(home), now=datetime.now(UTC))
    assert left(home) == set(range(20))


def test_the_command_line_shows_tidies_and_rotates(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def slipway(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["--home", str(home.root), "store", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    monkeypatch.setenv("SLIPWAY_HOME", str(home.root))
    released(home, 7, Phase.DONE)
    assert json.loads(slipway("show", "--json"))["reclaimable"]["bundles"] == 19
    assert "(19 bundles) could be removed" in slipway("show")
    assert "(19 bundles)" in slipway("tidy")
    first = json.loads(slipway("rotate-key", "--json"))
    assert first["distrusted"] == []
    second = json.loads(slipway("rotate-key", "--distrust-older", "--json"))
    assert first["key"] in second["distrusted"]

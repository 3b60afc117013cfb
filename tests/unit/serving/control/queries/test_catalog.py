"""What people are shown of an installation's files: overview, a model, a release, the history."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.page.home import ModelFiles
from model_store.errors import Retryable
from model_store.installation import ROOT as REPOSITORY
from model_store.release_spec import load
from serving.composition import wire
from serving.control import cooldowns
from serving.control.audit import AuditEntry, AuditTrail
from serving.control.freezes import Freezes
from serving.control.queries import outcomes
from serving.control.queries.activity import HistoryFilter
from serving.control.queries.catalog import Catalog, NothingFound
from serving.control.queries.outcomes import ReleaseOutcome
from serving.control.queries.runs import ModelDag, Question, RunSnapshot, Situation, TaskSnapshot
from serving.control.queries.statuses import ReleaseStatus
from serving.control.rollout.lock import Claim, ReleaseLock
from serving.home import Home, Ports
from serving.ledger.rows import LockRow, ReleaseRecord, RequestRow
from serving.metrics.base import EndpointCounters
from serving.types import ALL_STABLE, Endpoint
from tests.ledgers import ledger_of

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SPEC = load(REPOSITORY / "dags" / "releases" / "credit_risk.yaml").model_dump(mode="json")


class Airflow:
    """Knows what the test tells it. Untold, the runs of those that the locks name are at work."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.asked: list[Question] = []
        self.seen: RunSnapshot | None = None
        self.at_work: set[tuple[str, str]] | None = None
        self.state = "running"
        self.dags: dict[str, bool] = {}
        self.of_airflow = Situation()

    def run(self, dag_id: str, run_id: str) -> RunSnapshot | None:
        return self.seen

    def questions(self) -> list[Question]:
        return self.asked

    def situation(self) -> Situation:
        runs = set(_by_locks(self.home)) if self.at_work is None else self.at_work
        dags = {"release_new": False, **{dag_id: False for dag_id, _ in runs}, **self.dags}
        return replace(self.of_airflow, dags=dags, runs=dict.fromkeys(runs, self.state))

    def models(self) -> dict[str, ModelDag]:
        return {"new": ModelDag("release_new", "never released", False)}


def _by_locks(home: Home) -> Iterator[tuple[str, str]]:
    for turn in ledger_of(home).find(LockRow):
        for name in filter(None, (turn.holder, turn.waiting)):
            for asked in ledger_of(home).find(ReleaseRecord, id=name):
                yield asked.document["request"]["dag_id"], asked.document["request"]["run_id"]


class Proxy:
    def counters(self) -> dict[str, dict[Endpoint, EndpointCounters]]:
        return {}


class World:
    """A home, and a library over it. Time goes on only when told, and every look looks anew."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root, Ports())
        self.airflow = Airflow(self.home)
        self.ticks = 0.0
        self.now = NOW
        self.catalog = Catalog(
            wire(self.home), self.airflow, Proxy(), now=lambda: self.now, monotonic=self._tick
        )

    def _tick(self) -> float:
        self.ticks += 10.0
        return self.ticks

    def snapshot(self, model: str) -> ModelFiles:
        chance = random.Random(0)
        return ModelFiles(
            self.home, ledger_of(self.home), model, {**SPEC, "model": model}, chance, NOW - timedelta(hours=4)
        )

    def history(self, **wanted: str) -> list[tuple[str, str]]:
        found = self.catalog.history(HistoryFilter(**wanted))  # type: ignore[arg-type]
        return [(moment.who, moment.action) for moment in found.moments]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def fraud(world: World) -> ModelFiles:
    return standing_model(world)


def standing_model(world: World) -> ModelFiles:
    """v1 serves."""
    snapshot = world.snapshot("fraud")
    snapshot.release(1, "promoted")
    snapshot.write_route(ALL_STABLE, None, revision=9)
    snapshot.at = NOW - timedelta(minutes=10)
    return snapshot


def test_a_spec_that_was_never_released_is_told_apart_from_models(world: World, fraud: ModelFiles) -> None:
    overview = world.catalog.overview()
    assert [row.name for row in overview.models] == ["fraud"]
    assert [row.name for row in overview.unreleased] == ["new"]
    assert (overview.total, overview.serving) == (1, 1)
    assert [row.name for row in world.catalog.overview(query="NEW").unreleased] == ["new"]
    assert world.catalog.model("new").releases == 0
    assert [(arm.version, arm.weight) for arm in overview.models[0].serving] == [(1, 100)]
    assert world.catalog.overview(query="FRAU").matching == 1


@pytest.mark.parametrize(
    ("end", "status", "weight"),
    [
        ("rolling_out", ReleaseStatus.ROLLING_OUT, 25),
        ("paused", ReleaseStatus.PAUSED, 50),
        ("watching", ReleaseStatus.WATCHING, 100),
        ("preparing", ReleaseStatus.PREPARING, 0),
        ("rolled_back", ReleaseStatus.ROLLED_BACK, 0),
        ("blocked", ReleaseStatus.BLOCKED, 0),
        ("superseded", ReleaseStatus.SUPERSEDED, 0),
    ],
)
def test_a_release_is_shown_where_it_stands(
    world: World, fraud: ModelFiles, end: str, status: ReleaseStatus, weight: float
) -> None:
    name = fraud.release(2, end)
    row = world.catalog.release(name).row
    assert (row.status, row.weight) == (status, weight)
    assert row.status_words
    model = world.catalog.model("fraud")
    assert (model.active.id if model.active else None) == (name if status.is_under_way else None)


def test_one_that_waits_for_its_turn_says_for_whom(world: World, fraud: ModelFiles) -> None:
    first = fraud.release(2, "rolling_out")
    fraud.at += timedelta(minutes=1)
    second = fraud.release(3, "asked")
    lock = ReleaseLock(ledger_of(world.home))
    assert lock.acquire("fraud", Claim(fraud.at, second)) == "waiting"
    row = world.catalog.release(second).row
    assert (row.status, row.why) == (ReleaseStatus.QUEUED, f"waits for {first}")
    assert world.catalog.model("fraud").queued is not None


def test_one_that_was_asked_for_this_moment_is_on_its_way(world: World, fraud: ModelFiles) -> None:
    name = fraud.release(2, "asked")
    world.airflow.at_work = {("release_fraud", f"manual__{fraud.at.isoformat()}")}
    row = world.catalog.release(name).row
    assert (row.status, row.why) == (ReleaseStatus.QUEUED, "its run begins")
    queued = world.catalog.model("fraud").queued
    assert queued is not None
    assert queued.id == name


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_is_not_known_yet_is_never_shown_as_an_ending(
    world: World, fraud: ModelFiles, dry_run: bool
) -> None:
    """Neither its files nor Airflow say more of it than that somebody asked for it a moment ago."""
    fraud.at, fraud.dry_run = NOW - timedelta(seconds=1), dry_run
    world.airflow.at_work = set()
    name = fraud.release(2, "asked")
    row = world.catalog.release(name).row
    assert (row.status, row.why) == (ReleaseStatus.QUEUED, "asked for a moment ago; its run begins")
    last = world.catalog.model("fraud").last
    assert last is not None
    assert last.version == 1
    for status in ReleaseStatus:
        listed = [one.id for one in world.catalog.releases(status=status.value).releases]
        assert (name in listed) == (status is ReleaseStatus.QUEUED)
    assert all(entry.status.is_over or entry.id == name for entry in world.catalog._index.newest())


def test_a_release_that_left_no_word_is_told_to_be_over_only_when_airflow_says_so(
    world: World, fraud: ModelFiles
) -> None:
    name = fraud.release(2, "asked")
    run = ("release_fraud", f"manual__{fraud.at.isoformat()}")
    world.airflow.at_work = {run}
    assert world.catalog.release(name).row.status is ReleaseStatus.QUEUED
    world.airflow.at_work = set()
    row = world.catalog.release(name).row
    assert row.status is ReleaseStatus.BLOCKED
    assert "left no word of how it ended" in row.why


def test_a_dry_run_is_on_its_way_until_airflow_says_that_it_is_over(world: World, fraud: ModelFiles) -> None:
    fraud.dry_run = True
    name = fraud.release(2, "asked")
    world.airflow.at_work = {("release_fraud", f"manual__{fraud.at.isoformat()}")}
    assert world.catalog.release(name).row.status is ReleaseStatus.PREPARING
    world.airflow.at_work = set()
    assert world.catalog.release(name).row.status is ReleaseStatus.DRY_RUN


def test_only_airflow_knows_that_people_are_asked(world: World, fraud: ModelFiles) -> None:
    name = fraud.release(2, "preparing")
    run = f"manual__{fraud.at.isoformat()}"
    question = Question("release_fraud", run, "approve_1", "May fraud v2?", NOW, None, ("amina", "bo"))
    world.airflow.asked = [question]
    row = world.catalog.release(name).row
    assert (row.status, row.why) == (ReleaseStatus.WAITING, "waits for approval by amina, bo")
    assert [approval.release_id for approval in world.catalog.overview().approvals] == [name]
    assert world.catalog.overview(only="waiting").matching == 1


def test_a_freeze_is_said_to_hold_what_it_holds(world: World, fraud: ModelFiles) -> None:
    name = fraud.release(2, "preparing")
    freezes = Freezes(ledger_of(world.home), world.home.freezes)
    freezes.add("fraud", by="bo", reason="sales week", until=None, at=NOW)
    row = world.catalog.release(name).row
    assert row.status is ReleaseStatus.FROZEN
    assert "sales week" in row.why
    freezes.override(name, by="amina", reason="a fix", at=NOW)
    assert world.catalog.release(name).row.status is ReleaseStatus.PREPARING


def test_what_changes_is_seen_at_the_next_look(world: World, fraud: ModelFiles) -> None:
    assert world.catalog.releases(model="fraud").matching == 1
    name = fraud.release(2, "preparing")
    assert world.catalog.releases(model="fraud").matching == 2
    ended = ReleaseOutcome(name, "blocked", "gate: nothing passed", NOW)
    outcomes.save(ledger_of(world.home), ended)
    ReleaseLock(ledger_of(world.home)).release("fraud", name)
    row = world.catalog.releases(model="fraud").releases[0]
    assert (row.status, row.why) == (ReleaseStatus.BLOCKED, "gate: nothing passed")


def test_one_that_never_came_to_its_turn_says_to_whom_it_lost_it(world: World, fraud: ModelFiles) -> None:
    name = fraud.release(2, "asked")
    words = "superseded by fraud-v2-x, which releases the same version"
    outcomes.save(ledger_of(world.home), ReleaseOutcome(name, "superseded", words, NOW))
    row = world.catalog.release(name).row
    assert (row.status, row.why) == (ReleaseStatus.SUPERSEDED, words)


def test_who_asked_for_a_release_finds_it_at_once(world: World, fraud: ModelFiles) -> None:
    catalog = Catalog(wire(world.home), world.airflow, Proxy(), now=lambda: NOW, monotonic=lambda: 1.0)
    assert catalog.releases().matching == 1
    name = fraud.release(2, "preparing")
    assert catalog.release(name).row.id == name


def test_the_verdict_that_ended_it_is_told_in_words(world: World, fraud: ModelFiles) -> None:
    name = fraud.release(2, "rolled_back")
    verdict = world.catalog.release(name).verdict
    assert verdict is not None
    assert verdict.outcome == "fail"
    assert verdict.rules[0].reason.startswith("candidate failed 5 of 9 requests")
    assert verdict.exposure == 9
    ledger_of(world.home).prune(NOW + timedelta(days=1))
    left = world.catalog.release(name).verdict
    assert left is not None
    assert left.exposure is None, "the controller's records are gone"


def test_the_charts_have_both_arms_with_bands(world: World, fraud: ModelFiles) -> None:
    series = world.catalog.series(fraud.release(2, "rolling_out"))
    assert series.share[0] == 0
    assert series.share[-1] == 25
    band = series.failed["stable"]
    known = [i for i, rate in enumerate(band.rate) if rate is not None]
    assert known
    for i in known:
        rate, low, high = band.rate[i], band.low[i], band.high[i]
        assert rate is not None
        assert low is not None
        assert high is not None
        assert low <= rate <= high
    assert len(series.seconds) == len(band.high) == len(series.step) <= 260


def test_the_charts_tell_what_became_of_every_attempt(world: World, fraud: ModelFiles) -> None:
    series = world.catalog.series(fraud.release(2, "rolling_out"))
    for arm, counts in series.outcomes.items():
        kinds = (counts.answered, counts.refused, counts.malformed, counts.failed)
        assert {len(kind) for kind in kinds} == {len(series.seconds)}
        assert sum(kind[-1] for kind in kinds) == series.requests[arm] > 0


def test_a_release_without_traffic_has_no_charts(world: World, fraud: ModelFiles) -> None:
    with pytest.raises(NothingFound, match="has had no traffic"):
        world.catalog.series(fraud.release(2, "preparing"))


def test_steps_come_in_order_with_durations(world: World, fraud: ModelFiles) -> None:
    def task(name: str, state: str, start: float | None, end: float | None, index: int = -1) -> TaskSnapshot:
        times = [NOW + timedelta(seconds=s) if s is not None else None for s in (start, end)]
        return TaskSnapshot(name, index, state, times[0], times[1], 1, "")

    tasks = (
        task("settle", "none", None, None),
        task("candidates.gate", "success", 20, 30, 0),
        task("candidates.gate", "failed", 20, 50, 1),
        task("intake.take_turn", "success", 0, 5),
    )
    world.airflow.seen = RunSnapshot("running", NOW, None, tasks, (), "")
    steps = world.catalog.release(fraud.release(2, "preparing")).steps
    assert [step.name for step in steps] == ["take turn", "gate", "settle"]
    assert [step.state for step in steps] == ["done", "failed", "to come"]
    assert [step.seconds for step in steps] == [5, 30, None]
    assert steps[1].parts == 2
    assert steps[1].url.endswith("/tasks/candidates.gate/mapped")


def test_people_and_slipway_itself_are_in_one_history(world: World, fraud: ModelFiles) -> None:
    fraud.release(2, "rolled_back")
    trail = AuditTrail(ledger_of(world.home), world.home.late)
    trail.append(AuditEntry(NOW, "bo", "freeze", None, reason="sales week"))
    assert world.history()[0] == ("bo", "freeze")
    assert ("Slipway", "rolled back") in world.history()
    assert ("Slipway", "promoted") in world.history()
    assert world.history(who="bo") == [("bo", "freeze")]
    assert {who for who, _ in world.history(model="fraud")} == {"Slipway"}
    trail.append(AuditEntry(NOW + timedelta(seconds=1), "bo", "lift freeze", None, reason="over"))
    assert world.history(who="bo")[0] == ("bo", "lift freeze")


def test_unknown_names_say_where_to_look(world: World) -> None:
    ask: list[Callable[[], object]] = [
        lambda: world.catalog.model("nobody"),
        lambda: world.catalog.release("nobody-v1-20261121T120000Z"),
        lambda: world.catalog.release("../../etc/passwd"),
    ]
    for one in ask:
        with pytest.raises(NothingFound, match="there is no"):
            one()


def test_pages_stay_within_what_there_is(world: World, fraud: ModelFiles) -> None:
    for version in range(2, 60):
        fraud.at += timedelta(seconds=1)
        fraud.release(version, "superseded")
    first, last = world.catalog.releases(page=1), world.catalog.releases(page=99)
    assert (first.matching, first.pages, len(first.releases)) == (59, 2, 50)
    assert (last.page, len(last.releases)) == (2, 9)
    assert first.releases[0].version == 59


def test_a_row_is_made_anew_only_where_something_is_different(
    world: World, fraud: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(proxy: Proxy) -> dict[str, dict[Endpoint, EndpointCounters]]:
        raise Retryable("Envoy does not answer", remedy="start it")

    # What is told of the last minute is another every time that somebody looks.
    monkeypatch.setattr(Proxy, "counters", silent)
    other = world.snapshot("other")
    other.release(1, "promoted")
    other.write_route(ALL_STABLE, None, revision=9)
    before = {row.name: row for row in world.catalog.overview().models}
    fraud.release(2, "blocked")
    after = {row.name: row for row in world.catalog.overview().models}
    assert after["other"] is before["other"]
    assert (before["fraud"].releases, after["fraud"].releases) == (1, 2)


def test_a_route_that_changes_is_seen_though_no_release_did(world: World, fraud: ModelFiles) -> None:
    fraud.release(2, "promoted")
    assert world.catalog.model("fraud").serving[0].version == 1
    fraud.write_route(ALL_STABLE, None, revision=20)
    assert world.catalog.model("fraud").serving[0].version == 2


def test_releases_of_a_status_are_those_and_no_others(world: World, fraud: ModelFiles) -> None:
    for version, end in enumerate(("blocked", "rolled_back", "superseded", "rolling_out"), start=2):
        fraud.at += timedelta(seconds=1)
        fraud.release(version, end)
    for status, versions in {"blocked": [2], "superseded": [4], "under_way": [5], "queued": []}.items():
        assert [row.version for row in world.catalog.releases(status=status).releases] == versions


def test_the_history_stays_in_order_when_a_release_goes_on(world: World, fraud: ModelFiles) -> None:
    other = world.snapshot("other")
    other.release(1, "promoted")
    world.history()
    for end in ("rolling_out", "rolled_back"):
        fraud.release(2, end)
        moments = world.catalog.history(HistoryFilter()).moments
        assert list(moments) == sorted(moments, key=lambda moment: moment.at, reverse=True)
        assert len({(m.at, m.action, m.model, m.version) for m in moments}) == len(moments)
    assert ("Slipway", "rolled back") in world.history(model="fraud")
    assert world.history(model="other") == [
        ("Slipway", "finished"),
        ("Slipway", "promoted"),
        ("Slipway", "started"),
    ]


def stored(world: World, snapshot: ModelFiles, version: int) -> Path:
    """The bundle of a version, as far as it has to be there."""
    path = world.home.store / "bundles" / snapshot.deployment(version).bundle_id / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    return path


def test_a_rollback_is_offered_to_versions_whose_bundle_is_still_there(
    world: World, fraud: ModelFiles
) -> None:
    for version in (2, 3):
        fraud.at += timedelta(hours=2)
        fraud.release(version, "promoted")
    fraud.write_route(ALL_STABLE, None, revision=30)
    first, second = stored(world, fraud, 1), stored(world, fraud, 2)
    assert (world.catalog.returnable("fraud"), world.catalog.model("fraud").can_return_to) == ([2, 1], 2)
    assert world.catalog.overview(query="fraud").models[0].can_return_to == 2
    second.unlink()
    assert world.catalog.overview(query="fraud").models[0].can_return_to is None, "in the list too"
    assert (world.catalog.returnable("fraud"), world.catalog.model("fraud").can_return_to) == ([1], None)
    first.unlink()
    assert world.catalog.returnable("fraud") == []


def test_a_version_that_is_warm_needs_no_bundle_to_come_back(world: World, fraud: ModelFiles) -> None:
    fraud.release(2, "watching")
    assert world.catalog.model("fraud").can_return_to == 1


def test_a_holder_of_the_lock_whose_run_is_over_is_not_on_its_way(world: World, fraud: ModelFiles) -> None:
    name = fraud.release(2, "preparing")
    assert world.catalog.overview(only="under_way").matching == 1
    world.airflow.at_work = set()
    row = world.catalog.release(name).row
    assert (row.status, row.why) == (
        ReleaseStatus.BLOCKED,
        "its DAG run is over without having settled it; the next release of the model takes its place",
    )
    model = world.catalog.model("fraud")
    assert (model.active, model.queued, model.last and model.last.id) == (None, None, name)
    overview = world.catalog.overview(only="under_way")
    assert (overview.matching, overview.under_way) == (0, ())
    assert world.catalog.releases(status="under_way").matching == 0
    assert [one.id for one in world.catalog.releases(status="blocked").releases] == [name]
    kept = ReleaseOutcome(name, "blocked", "gate: 12 MB, at most 10", NOW)
    outcomes.save(ledger_of(world.home), kept)
    assert world.catalog.release(name).row.why == kept.reason, "its own words where it left some"


def test_one_that_waits_and_whose_run_is_over_is_not_queued(world: World, fraud: ModelFiles) -> None:
    first = fraud.release(2, "preparing")
    holding = list(_by_locks(world.home))
    fraud.at += timedelta(minutes=1)
    second = fraud.release(3, "asked")
    ReleaseLock(ledger_of(world.home)).acquire("fraud", Claim(fraud.at, second))
    assert world.catalog.release(second).row.status is ReleaseStatus.QUEUED
    world.airflow.at_work = set(holding)
    assert world.catalog.release(second).row.status is ReleaseStatus.BLOCKED
    model = world.catalog.model("fraud")
    assert (model.active and model.active.id, model.queued) == (first, None)


def test_airflow_may_not_have_heard_yet_of_a_run_that_was_just_asked_for(
    world: World, fraud: ModelFiles
) -> None:
    fraud.at = NOW - timedelta(seconds=5)
    world.airflow.at_work = set()
    assert world.catalog.release(fraud.release(2, "preparing")).row.status is ReleaseStatus.PREPARING


def test_a_model_that_is_held_or_cools_down_says_so(world: World, fraud: ModelFiles) -> None:
    services = wire(world.home)
    fraud.release(2, "rolled_back")
    fraud.write_route(ALL_STABLE, None, revision=30)
    until = cooldowns.cooldown_end(services, "fraud", cooldowns.DEFAULT_COOLDOWN)
    assert until is not None
    waits = ("release_fraud", "asset_triggered__1")
    world.now = until - timedelta(seconds=1)
    world.airflow.at_work = {waits}
    (told,) = world.catalog.model("fraud").stands_still
    assert (told.kind, f"waits until {until:%Y-%m-%d %H:%M:%S} UTC" in told.words) == ("cooldown", True)
    world.now = until
    assert world.catalog.model("fraud").stands_still == ()
    cooldowns.hold(services, "fraud", "it failed twice", at=NOW)
    (told,) = world.catalog.model("fraud").stands_still
    assert (told.kind, "it failed twice" in told.words) == ("held", True)
    assert [one.kind for one in world.catalog.standing_still()] == ["held"]


def test_a_release_with_a_window_that_never_comes_is_still_shown(world: World, fraud: ModelFiles) -> None:
    """Specs took such windows once."""
    fraud.spec = {**fraud.spec, "freezes": [{"reason": "never", "cron": "0 0 31 2 *", "hours": 1}]}
    row = world.catalog.release(fraud.release(2, "preparing")).row
    assert (row.status, row.by) == (
        ReleaseStatus.PREPARING,
        world.catalog.releases(model="fraud").releases[0].by,
    )
    assert row.by, "its request was read"


def went_back(world: World, leaves: int, returns: int, at: datetime, *, switched: bool = True) -> None:
    request = {
        "model": "fraud",
        "at": at.isoformat(),
        "by": "grace",
        "reason": "users complain",
        "incident": "",
    }
    saved = {"id": f"fraud-rollback-{at:%H%M%S}", "wish": request, "leaves": leaves, "returns": returns}
    if switched:
        saved["switched_at"] = (at + timedelta(seconds=3)).isoformat()
    put_rollback(world, saved)


def put_rollback(world: World, saved: dict[str, Any]) -> None:
    asked, at = saved["wish"], datetime.fromisoformat(saved["wish"]["at"])
    row = RequestRow(
        id=saved["id"],
        service=asked["model"],
        action="rollback",
        by=asked["by"],
        reason=asked["reason"],
        at=at,
        document=saved,
    )
    ledger_of(world.home).save(row)


def test_a_release_whose_version_was_left_later_says_so_everywhere(world: World, fraud: ModelFiles) -> None:
    name = fraud.release(2, "promoted")
    at = NOW + timedelta(hours=3)
    went_back(world, 2, 1, at, switched=False)
    assert world.catalog.release(name).row.status is ReleaseStatus.PROMOTED, "it was asked for, and failed"
    went_back(world, 2, 1, at + timedelta(seconds=60))
    row = world.catalog.release(name).row
    assert row.status is ReleaseStatus.ROLLED_BACK
    assert row.why == "rolled back later by grace to version 1: users complain"
    assert row.changed_at == at + timedelta(seconds=63)
    last = world.catalog.model("fraud").last
    assert (last.id, last.status) == (name, ReleaseStatus.ROLLED_BACK) if last else False
    assert [one.id for one in world.catalog.releases(status="rolled_back").releases] == [name]
    stored(world, fraud, 2)
    fraud.serving = 1
    fraud.write_route(ALL_STABLE, None, revision=40)
    assert world.catalog.returnable("fraud") == [2], "who went back may go forward again"
    went_back(world, 1, 2, at + timedelta(hours=1))
    assert world.catalog.release(name).row.status is ReleaseStatus.PROMOTED


def test_only_the_newest_release_of_a_version_is_told_to_be_left(world: World, fraud: ModelFiles) -> None:
    first = fraud.release(2, "promoted")
    fraud.at += timedelta(hours=3)
    second = fraud.release(2, "promoted")
    went_back(world, 2, 1, fraud.at + timedelta(hours=3))
    status = {name: world.catalog.release(name).row.status for name in (first, second)}
    assert status == {first: ReleaseStatus.PROMOTED, second: ReleaseStatus.ROLLED_BACK}

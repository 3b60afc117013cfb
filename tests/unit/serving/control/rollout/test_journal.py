from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from model_store.errors import Permanent
from serving.control.rollout.journal import (
    Journal,
    KeptJournal,
    StaleState,
    TimelineEvent,
    UnknownRelease,
    release_id,
    service_of,
)
from serving.control.rollout.plan import Phase
from serving.control.rollout.record import EndpointCounts, Record
from serving.ledger.base import Unreachable
from serving.ledger.memory import MemoryLedger
from serving.ledger.rows import ObservationRow, RolloutRow, Row
from serving.types import Counts, Endpoint, Finding, Outcome, Verdict
from tests.unit.serving.world import RELEASE, World

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
EVENT = TimelineEvent(NOON, "test", "it", 0)


class Broken(MemoryLedger):
    """One that writes, or does not, and says in both cases that it cannot be reached."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble = ""

    def save(self, *changes: Any, **more: Any) -> tuple[Row, ...]:
        saved = () if self.trouble == "before" else super().save(*changes, **more)
        if self.trouble:
            raise Unreachable("the ledger is gone", remedy="start it")
        return saved

    def observe(self, *observations: ObservationRow, **more: Any) -> None:
        if self.trouble:
            raise Unreachable("the ledger is gone", remedy="start it")
        super().observe(*observations, **more)


@pytest.fixture
def world() -> World:
    return World(ledger=Broken())


def broken(world: World) -> Broken:
    assert isinstance(world.ledger, Broken)
    return world.ledger


def record(requests: int = 7, outcome: Outcome = Outcome.PASS) -> Record:
    finding = Finding("errors", outcome, "because", (("n", 1.5),), "a paper")
    return Record(
        at=NOON,
        monotonic=12.5,
        place=2,
        share=0.1,
        settled=True,
        retries_on_stable=True,
        step_seconds=3.25,
        stable=Counts(100, 1, 0, 9.5, refused=6, malformed=7, uninformative=5),
        candidate=Counts(requests, 0, 2, 9.5),
        raw={Endpoint("127.0.0.1", 8500): EndpointCounts(1, 2, 3, 4, 5, 6, 7)},
        verdict=Verdict.of([finding], at=NOON),
        latency=({15: 90, 24: 1}, {14: requests}),
    )


def test_a_state_comes_back_as_it_was_saved(world: World) -> None:
    found = Finding("errors", Outcome.FAIL, "20 % failed", (("rate", 0.2),), "a paper")
    state = world.state.with_phase(Phase.WATCHING, at=NOON, reason="because", findings=(found,))
    saved = world.journal.save(state, EVENT)
    assert saved == replace(state, generation=state.generation + 1)
    assert Journal(world.ledger).load(RELEASE) == KeptJournal(world.ledger).load(RELEASE) == saved
    assert world.journal.timeline(RELEASE)[-1] == EVENT


def test_a_save_from_an_older_generation_is_refused_and_changes_nothing(world: World) -> None:
    old = world.state
    newer = world.journal.save(replace(old, step=1), EVENT)
    with pytest.raises(StaleState):
        world.journal.save(replace(old, step=2), EVENT)
    assert world.state == newer


def test_of_many_savers_at_one_generation_exactly_one_wins(world: World) -> None:
    old = world.state

    def attempt(step: int) -> bool:
        try:
            world.journal.save(replace(old, step=step), EVENT)
        except StaleState:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(attempt, range(20))).count(True) == 1


def test_what_another_controller_saved_is_learned_and_never_written_over(world: World) -> None:
    other = KeptJournal(world.ledger)
    theirs = other.save(replace(other.load(RELEASE), step=1), EVENT)
    with pytest.raises(StaleState):
        world.journal.save(replace(world.state, step=2), EVENT)
    assert world.state == theirs
    theirs = other.save(replace(theirs, step=2), EVENT)
    world.journal.refresh()
    assert world.state == theirs


def test_who_stands_by_knows_a_release_that_began_a_moment_ago(world: World) -> None:
    standby = KeptJournal(world.ledger)
    begun = replace(world.state, release_id="fraud-v9-20261121T120000Z", generation=0)
    assert standby.load(world.journal.create(begun, EVENT).release_id) == begun


@pytest.mark.parametrize("trouble", ["before", "after"])
def test_a_save_of_which_nobody_knows_whether_it_was_written_is_known_after_a_refresh(
    world: World, trouble: str
) -> None:
    broken(world).trouble = trouble
    with pytest.raises(Unreachable):
        world.journal.save(replace(world.state, step=1), EVENT)
    broken(world).trouble = ""
    world.journal.refresh()
    assert (world.state.step == 1) is (trouble == "after")
    world.journal.save(replace(world.state, step=2), EVENT)


def test_creating_what_exists_returns_it_untouched(world: World) -> None:
    moved = world.journal.save(replace(world.state, step=1), EVENT)
    assert world.journal.create(replace(moved, step=-1, generation=0), EVENT) == moved


def test_an_unknown_release_lists_the_latest_ones(world: World) -> None:
    for journal in (world.journal, Journal(world.ledger)):
        with pytest.raises(UnknownRelease, match=RELEASE):
            journal.load("fraud-v9-20261121T120000Z")


@pytest.mark.parametrize("name", ["../../etc-v1-20261121T120000Z", "fraud", "", "a/b-v1-20261121T120000Z"])
def test_what_is_no_release_id_is_refused(world: World, name: str) -> None:
    with pytest.raises(Permanent):
        world.journal.load(name)


@pytest.mark.parametrize("model", ["fraud", "my-v2-model", "a.b_c"])
def test_a_release_id_names_its_service(model: str) -> None:
    release = release_id(model, 3, at=NOON, again=1)
    assert release == f"{model}-v3-20261121T120000Z-1"
    assert service_of(release) == model


def test_only_the_controllers_journal_saves(world: World) -> None:
    with pytest.raises(Permanent, match="by the controller alone"):
        Journal(world.ledger).save(world.state, EVENT)


def test_only_releases_that_are_not_over_are_active(world: World) -> None:
    for journal in (world.journal, Journal(world.ledger)):
        assert [state.release_id for state in journal.active()] == [RELEASE]
    world.rollouts.roll_back(RELEASE, reason="test")
    for journal in (world.journal, Journal(world.ledger)):
        assert journal.active() == []
        assert [state.release_id for state in journal.releases("fraud")] == [RELEASE]


def test_observations_come_back_as_they_were_written(world: World) -> None:
    lines = [record(1), record(2, Outcome.FAIL)]
    for line in lines:
        world.journal.append(RELEASE, line)
    assert list(world.journal.records(RELEASE)) == lines
    assert world.journal.latest_record(RELEASE) == Journal(world.ledger).latest_record(RELEASE) == lines[-1]


def test_observations_that_could_not_be_written_wait_and_keep_their_order(world: World) -> None:
    broken(world).trouble = "before"
    for number in (1, 2):
        world.journal.append(RELEASE, record(number))
        with pytest.raises(Unreachable):
            world.journal.flush()
    assert world.journal.latest_record(RELEASE) == record(2)
    broken(world).trouble = ""
    world.journal.append(RELEASE, record(3))
    world.journal.flush()
    assert list(Journal(world.ledger).records(RELEASE)) == [record(1), record(2), record(3)]


def test_an_observation_of_before_refusals_were_counted_reads_as_without_any() -> None:
    saved = record(1).to_json()
    del saved["rejected"], saved["raw_rejected"]
    found = Record.from_json(saved)
    assert (found.stable.requests, found.stable.refused, found.stable.malformed) == (100, 0, 0)
    assert found.raw[Endpoint("127.0.0.1", 8500)] == EndpointCounts(1, 2, 3)


def test_without_observations_there_is_no_latest(world: World) -> None:
    assert world.journal.latest_record(RELEASE) is None
    assert list(world.journal.records(RELEASE)) == []


def observed(world: World, *documents: dict[str, Any]) -> None:
    world.ledger.observe(
        *(ObservationRow(release_id=RELEASE, at=NOON, place=2, document=each) for each in documents)
    )


def test_observations_of_before_formats_had_numbers_are_read(world: World) -> None:
    old = record(7).to_json()
    del old["format"], old["answers"]
    observed(world, old)
    assert world.journal.latest_record(RELEASE) == record(7)


def test_what_a_newer_version_adds_to_an_observation_is_left_out(world: World) -> None:
    observed(world, {**record(7).to_json(), "mood": "good"})
    assert world.journal.latest_record(RELEASE) == record(7)


def test_observations_of_a_newer_format_count_for_nothing_and_are_told_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    observed(world, record(7).to_json(), *[{"format": 2, "at": "whatever that means then"}] * 2)
    for _ in range(3):
        assert list(world.journal.records(RELEASE)) == [record(7)]
    assert len(caplog.records) == 1
    assert "format 2" in caplog.text


def test_a_state_with_fields_of_a_newer_version_is_read_without_them(world: World) -> None:
    before, row = world.state, world.ledger.get(RolloutRow, RELEASE)
    world.ledger.save(replace(row, document={**row.document, "mood": "good"}))
    assert Journal(world.ledger).load(RELEASE) == replace(before, generation=before.generation + 1)


def test_a_state_that_nobody_touched_says_nothing_of_what_people_may_do(world: World) -> None:
    def said() -> set[str]:
        return set(world.ledger.get(RolloutRow, RELEASE).document)

    later = {"paused", "hold_skipped", "patience_from"}
    assert said() & later == set()
    touched = replace(world.state, paused="by ada", hold_skipped=True, patience_from=3.0)
    saved = world.journal.save(touched, EVENT)
    assert said() & later == later
    assert world.state == saved
    world.journal.save(saved.left_alone(), EVENT)
    assert said() & later == set()

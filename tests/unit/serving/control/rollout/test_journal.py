from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from model_store.errors import Permanent
from serving.control.rollout.journal import Journal, StaleState, TimelineEvent, UnknownRelease, release_id
from serving.control.rollout.plan import Phase
from serving.control.rollout.record import EndpointCounts, Record
from serving.types import Counts, Endpoint, Finding, Outcome, Verdict
from tests.unit.serving.world import RELEASE, World

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
EVENT = TimelineEvent(NOON, "test", "it", 0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


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
    assert Journal(world.journal.root).load(RELEASE) == saved


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


def test_creating_what_exists_returns_it_untouched(world: World) -> None:
    moved = world.journal.save(replace(world.state, step=1), EVENT)
    assert world.journal.create(replace(moved, step=-1, generation=0), EVENT) == moved


def test_an_unknown_release_lists_the_latest_ones(world: World) -> None:
    with pytest.raises(UnknownRelease, match=RELEASE):
        world.journal.load("fraud-v9-20261121T120000Z")


@pytest.mark.parametrize("name", ["../../etc-v1-20261121T120000Z", "fraud", "", "a/b-v1-20261121T120000Z"])
def test_a_release_id_cannot_lead_out_of_the_journal(world: World, name: str) -> None:
    with pytest.raises(Permanent):
        world.journal.load(name)


@pytest.mark.parametrize("model", ["fraud", "my-v2-model", "a.b_c"])
def test_a_release_id_names_its_service(world: World, model: str) -> None:
    release = release_id(model, 3, at=NOON, again=1)
    assert release == f"{model}-v3-20261121T120000Z-1"
    assert world.journal.path(release).parent.name == model


def test_only_releases_that_are_not_over_are_active(world: World) -> None:
    assert [state.release_id for state in world.journal.active()] == [RELEASE]
    world.rollouts.roll_back(RELEASE, reason="test")
    assert world.journal.active() == []
    assert [state.release_id for state in world.journal.releases("fraud")] == [RELEASE]


def test_observations_come_back_as_they_were_written(world: World) -> None:
    lines = [record(1), record(2, Outcome.FAIL)]
    for line in lines:
        world.journal.append(RELEASE, line)
    assert list(world.journal.records(RELEASE)) == lines
    assert world.journal.latest_record(RELEASE) == lines[-1]


def test_a_line_of_before_refusals_were_counted_reads_as_without_any(world: World) -> None:
    line = orjson.loads(record(1).to_line())
    del line["rejected"], line["raw_rejected"]
    found = Record.from_line(orjson.dumps(line))
    assert (found.stable.requests, found.stable.refused, found.stable.malformed) == (100, 0, 0)
    assert found.raw[Endpoint("127.0.0.1", 8500)] == EndpointCounts(1, 2, 3)


def test_a_reader_of_before_finds_as_many_counts_as_it_knows(world: World) -> None:
    line = orjson.loads(record(1).to_line())
    assert len(line["stable"]) == len(line["candidate"]) == 4
    assert [len(stand) for stand in line["raw"].values()] == [3]


def test_a_line_torn_by_a_crash_is_skipped_and_does_not_spoil_the_next(world: World) -> None:
    world.journal.append(RELEASE, record(1))
    with world.journal.counts_path(RELEASE).open("ab") as file:
        file.write(record(2).to_line()[:40])
    assert world.journal.latest_record(RELEASE) == record(1)
    Journal(world.journal.root).append(RELEASE, record(3))
    assert list(world.journal.records(RELEASE)) == [record(1), record(3)]


def test_without_observations_there_is_no_latest(world: World) -> None:
    assert world.journal.latest_record(RELEASE) is None
    assert list(world.journal.records(RELEASE)) == []


def rewritten(world: World, **changes: object) -> None:
    """The release's state file as another version of Slipway might have left it."""
    path = world.journal.path(RELEASE)
    saved = json.loads(path.read_text())
    saved["state"] |= changes.pop("state", {})
    path.write_text(json.dumps(saved | changes))


def lines_of(world: World, *lines: dict[str, object]) -> None:
    with world.journal.counts_path(RELEASE).open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def test_observations_of_before_formats_had_numbers_are_read(world: World) -> None:
    old = json.loads(record(7).to_line())
    del old["format"], old["answers"]
    lines_of(world, old)
    assert world.journal.latest_record(RELEASE) == record(7)


def test_what_a_newer_version_adds_to_an_observation_is_left_out(world: World) -> None:
    lines_of(world, {**json.loads(record(7).to_line()), "mood": "good"})
    assert world.journal.latest_record(RELEASE) == record(7)


def test_observations_of_a_newer_format_count_for_nothing_and_are_told_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.journal.append(RELEASE, record(7))
    newer = {"format": 2, "at": "whatever that means then"}
    lines_of(world, newer, newer)
    for _ in range(3):
        assert world.journal.latest_record(RELEASE) == record(7)
        assert list(world.journal.records(RELEASE)) == [record(7)]
    assert len(caplog.records) == 1
    assert "format 2" in caplog.text


def test_a_state_with_fields_of_a_newer_version_is_read_without_them(world: World) -> None:
    before = world.state
    rewritten(world, state={"mood": "good"})
    assert world.state == before


def test_a_state_of_a_newer_schema_is_refused_with_a_remedy(world: World) -> None:
    rewritten(world, schema=2)
    with pytest.raises(Permanent, match="schema 2") as refused:
        world.journal.load(RELEASE)
    assert refused.value.remedy


def test_a_controller_of_before_people_could_interfere_can_read_a_state_nobody_touched(world: World) -> None:
    def said() -> set[str]:
        return set(json.loads(world.journal.path(RELEASE).read_text())["state"])

    later = {"paused", "hold_skipped", "patience_from"}
    assert said() & later == set()
    touched = replace(world.state, paused="by ada", hold_skipped=True, patience_from=3.0)
    saved = world.journal.save(touched, EVENT)
    assert said() & later == later
    assert world.state == saved
    world.journal.save(saved.left_alone(), EVENT)
    assert said() & later == set()

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serving.control.controller.tick import Controller
from serving.control.controller.watch import ReleaseWatch
from serving.control.rollout.control import Control, ControlRequest
from serving.control.rollout.journal import KeptJournal
from serving.control.rollout.plan import Hold, Phase
from serving.control.rollout.record import Record
from serving.control.shadow import Shadow
from serving.ledger.base import Unreachable
from serving.ledger.rows import ObservationRow, RolloutRow
from serving.metrics.base import EndpointCounters
from serving.types import ALL_STABLE, Endpoint, Outcome, RouteSettings, Slot
from tests.unit.serving.world import PLAN, RELEASE, World, deployed


@pytest.fixture
def world() -> World:
    return World()


def test_it_rolls_back_what_fails(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    world.candidate_errors(1.0).tick(4)
    assert (world.phase, world.split) == (Phase.ROLLED_BACK, ALL_STABLE)


def test_at_100_percent_errors_three_looks_are_enough(world: World) -> None:
    world.requests(25).until(Phase.PROGRESSING, step=1).candidate_errors(1.0).tick(3)
    assert world.phase is Phase.ROLLED_BACK


def test_counters_that_nobody_judges_are_read_now_and_then(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, read = [0], world.counters

    def counted() -> dict[str, dict[Endpoint, EndpointCounters]]:
        reads[0] += 1
        return read()

    monkeypatch.setattr(world, "counters", counted)
    world.until(Phase.PROGRESSING, step=1)
    reads[0] = 0
    world.tick(8)
    assert reads == [8]
    world.candidate_errors(1.0).until(Phase.ROLLED_BACK).tick()
    reads[0] = 0
    world.tick(80, seconds=0.25)
    assert reads == [10]


def test_restarted_it_believes_what_it_believed_before(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1).candidate_errors(0.02).stable_errors(0.01).tick(21)
    before = world.controller.watches[RELEASE]
    resumed = ReleaseWatch.resume(world.journal, world.state)
    assert resumed.written == before.written
    assert resumed.tally.candidate.requests == before.written.candidate.requests if before.written else False
    assert resumed.belief.candidate.errors == resumed.tally.candidate.errors


def test_restarted_in_the_middle_of_a_failure_it_counts_what_happened_meanwhile(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    world.controller_is_up = False
    world.candidate_errors(1.0).tick(4)
    world.controller_is_up = True
    assert world.restart_controller().tick(2).phase is Phase.ROLLED_BACK


def test_a_restarted_controller_does_not_count_twice(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    for _ in range(5):
        world.restart_controller().tick(5)
    seen = world.journal.latest_record(RELEASE)
    assert seen
    assert seen.candidate.requests <= world.seen_by_candidate


def test_a_restarted_envoy_costs_no_release(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1).envoy_restarts().until(Phase.DONE)


def test_the_look_at_counters_that_began_again_is_never_a_pass(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1).tick(3).envoy_restarts().tick()
    seen = world.journal.latest_record(RELEASE)
    assert seen
    assert seen.verdict.outcome is Outcome.ERROR


def test_an_envoy_away_for_a_moment_holds_the_release_and_costs_nothing(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    world.envoy_answers = False
    world.tick(20)
    assert isinstance(world.actions[-1], Hold)
    assert world.state.step == 1
    world.envoy_answers = True
    world.until(Phase.DONE)


def test_a_candidate_nobody_can_count_loses_its_traffic_after_the_limit(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    world.envoy_answers = False
    world.tick(55)
    assert world.phase is Phase.PROGRESSING
    world.tick(10)
    assert (world.phase, world.split) == (Phase.ROLLED_BACK, ALL_STABLE)
    assert "nobody could count" in world.state.reason


@pytest.mark.parametrize("jump", [-7200.0, 7200.0])
def test_a_wall_clock_that_jumps_decides_nothing(world: World, jump: float) -> None:
    world.until(Phase.PROGRESSING, step=1)
    world.clock_jumps(jump).tick()
    assert (world.phase, world.state.step) == (Phase.PROGRESSING, 1)
    world.until(Phase.DONE)


def test_a_clock_that_went_back_makes_no_older_release_the_latest(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1).candidate_errors(1.0).until(Phase.ROLLED_BACK)
    world.candidate_errors(0.0).clock_jumps(-7200)
    del world.counters_by_endpoint[world.candidate.endpoints[0]]  # as the proxy does when it is taken out
    again = "fraud-v2-20261121T100000Z"
    world.rollouts.start(again, PLAN, world.candidate, RouteSettings())
    world.tick(200)
    state = world.journal.load(again)
    assert (state.phase, state.step) == (Phase.WATCHING, 2)


def test_without_the_controller_nothing_moves_and_with_it_the_rollout_goes_on(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    world.controller_is_up = False
    world.tick(70, seconds=10)
    assert (world.phase, world.state.step) == (Phase.PROGRESSING, 1)
    world.controller_is_up = True
    world.restart_controller().until(Phase.DONE)


def test_what_is_acted_on_is_written_down_first(world: World) -> None:
    for phase, step in [(Phase.PROGRESSING, 1), (Phase.WATCHING, 2), (Phase.DONE, 2)]:
        world.until(phase, step=step)
        last = world.journal.latest_record(RELEASE)
        assert last
        assert (last.at, last.verdict.outcome) == (world.wall, Outcome.PASS)


def test_a_stable_version_that_is_just_as_bad_holds_the_release(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1).stable_errors(0.2).candidate_errors(0.2).tick(200)
    assert (world.phase, world.state.step) == (Phase.PROGRESSING, 1)
    assert isinstance(world.actions[-1], Hold)


def test_trouble_with_one_release_does_not_keep_it_from_another(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.until(Phase.PROGRESSING, step=1)
    other = "credit-v2-20261121T120000Z"
    world.rollouts.start(other, PLAN, deployed(2, Slot.GREEN, "credit"), RouteSettings())
    spoil(world, other)
    with caplog.at_level(logging.CRITICAL):
        world.restart_controller().candidate_errors(1.0).tick(4)
    assert world.phase is Phase.ROLLED_BACK


def spoil(world: World, release: str) -> None:
    """Let the ledger say of a rollout what no Slipway ever wrote, and the controller begin with that."""
    known = world.ledger.find(RolloutRow, release_id=release)
    other = replace(world.ledger.get(RolloutRow, RELEASE), release_id=release, generation=0)
    row = known[0] if known else other
    world.ledger.save(replace(row, document={"torn": True}))
    world.journal = KeptJournal(world.ledger)


def test_counts_that_cannot_be_read_do_not_keep_other_releases_from_being_looked_at(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.until(Phase.PROGRESSING, step=1)
    other = "credit-v2-20261121T120000Z"
    world.rollouts.start(other, PLAN, deployed(2, Slot.GREEN, "credit"), RouteSettings())
    records = world.journal.records

    def unreadable(release: str) -> Iterator[Record]:
        if release == other:
            raise Unreachable("the ledger is gone", remedy="start it")
        return records(release)

    monkeypatch.setattr(world.journal, "records", unreadable)
    with caplog.at_level(logging.CRITICAL):
        world.restart_controller().candidate_errors(1.0).tick(4)
    assert world.phase is Phase.ROLLED_BACK
    assert world.controller.done.errors > 0
    monkeypatch.undo()
    world.tick()
    assert other in world.controller.watches


def test_an_observation_that_is_no_observation_is_skipped(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    [last] = world.ledger.find(ObservationRow, release_id=RELEASE, newest=1)
    world.ledger.observe(replace(last, number=0, document={**last.document, "raw": []}))
    world.restart_controller().candidate_errors(1.0).tick(4)
    assert world.phase is Phase.ROLLED_BACK


def test_an_old_release_that_cannot_be_read_does_not_hide_the_one_under_way(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.until(Phase.PROGRESSING, step=1)
    spoil(world, "fraud-v1-20261120T120000Z")
    with caplog.at_level(logging.CRITICAL):
        world.restart_controller().candidate_errors(1.0).tick(4)
    assert world.controller.rollbacks == {"fraud": 1}


def test_a_comparison_that_cannot_begin_does_not_keep_the_traffic_from_being_judged(
    world: World, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    world.until(Phase.PROGRESSING, step=1)

    class NoThreads(Shadow):
        def take(self, *_: object) -> tuple[int, int]:
            raise RuntimeError("can't start new thread")

    world.controller = Controller(
        world.journal,
        world.router,
        world,
        now=world.now,
        monotonic=world.monotonic,
        shadow=NoThreads(tmp_path),
    )
    with caplog.at_level(logging.CRITICAL):
        world.candidate_errors(1.0).tick(4)
    assert world.phase is Phase.ROLLED_BACK
    assert world.controller.done.errors > 0


def test_observations_are_bounded(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    before = len(list(world.journal.records(RELEASE)))
    world.tick(400)
    assert len(list(world.journal.records(RELEASE))) - before <= 101


def test_a_pause_has_a_tenth_of_the_observations_and_no_silence(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    control = Control(world.journal, now=world.now)
    control.pause(RELEASE, ControlRequest("ada", "lunch"))
    before, looked = len(list(world.journal.records(RELEASE))), len(world.actions)
    world.tick(400)
    assert 9 <= len(list(world.journal.records(RELEASE))) - before <= 12
    assert {str(action) for action in world.actions[looked:]} == {"Hold(reason='paused: by ada: lunch')"}
    world.tick(38)
    control.resume(RELEASE, ControlRequest("ada", "back"))
    world.tick(5)  # a full verdict, and with it the next line, comes every second
    world.until(Phase.DONE)


def test_a_verdict_is_written_with_the_counts_it_used(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1).candidate_errors(1.0).tick(4)
    last = world.journal.latest_record(RELEASE)
    assert last
    assert last.verdict.outcome is Outcome.FAIL
    assert last.candidate.errors > 0
    assert world.state.findings

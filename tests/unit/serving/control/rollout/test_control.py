"""People interfering with a rollout, in the simulated world."""

from __future__ import annotations

from threading import Barrier, Thread

import pytest

from serving.control.rollout.control import ActSuperseded, Control, ControlRequest
from serving.control.rollout.plan import Phase
from serving.types import ALL_STABLE, TrafficSplit
from tests.unit.serving.world import RELEASE, World

ADA = ControlRequest("ada", "lunch")
BOB = ControlRequest("bob", "in a hurry")


@pytest.fixture
def world() -> World:
    return World().until(Phase.PROGRESSING, step=1)


@pytest.fixture
def control(world: World) -> Control:
    return Control(world.journal, now=world.now)


def test_a_paused_rollout_keeps_its_split_however_good_it_is(world: World, control: Control) -> None:
    control.pause(RELEASE, ADA)
    world.tick(100)
    assert (world.split, world.state.step) == (TrafficSplit(50, 50), 1)
    assert "by ada: lunch" in str(world.actions[-1])


def test_a_paused_rollout_that_turns_bad_is_rolled_back_all_the_same(world: World, control: Control) -> None:
    control.pause(RELEASE, ADA)
    world.candidate_errors(0.2).tick(20)
    assert (world.phase, world.split) == (Phase.ROLLED_BACK, ALL_STABLE)


def test_a_pause_longer_than_the_steps_limit_does_not_give_the_release_up(
    world: World, control: Control
) -> None:
    control.pause(RELEASE, ADA)
    world.requests(0).tick(200, seconds=4)
    control.resume(RELEASE, ADA)
    world.tick(5, seconds=4)
    assert world.phase is Phase.PROGRESSING
    world.requests(100).until(Phase.DONE)


def test_a_paused_rollout_that_nobody_can_count_loses_its_traffic(world: World, control: Control) -> None:
    control.pause(RELEASE, ADA)
    world.envoy_answers = False
    world.tick(65)
    assert (world.phase, world.split) == (Phase.ROLLED_BACK, ALL_STABLE)
    assert "nobody could count" in world.state.reason


def test_after_a_pause_the_steps_limit_counts_again(world: World, control: Control) -> None:
    control.pause(RELEASE, ADA)
    world.requests(0).tick(10)
    control.resume(RELEASE, ADA)
    world.tick(200, seconds=4)
    assert world.phase is Phase.ROLLED_BACK


def test_a_pause_ends_with_its_step_only_by_resuming(world: World, control: Control) -> None:
    control.pause(RELEASE, ADA)
    control.resume(RELEASE, BOB)
    world.until(Phase.DONE)
    kinds = [(event.kind, event.detail) for event in world.journal.timeline(RELEASE)]
    assert kinds[3:5] == [("paused", "by ada: lunch"), ("resumed", "by bob: in a hurry")]


def test_a_paused_watch_does_not_end(world: World, control: Control) -> None:
    world.until(Phase.WATCHING)
    control.pause(RELEASE, ADA)
    world.tick(100, seconds=1)
    assert world.phase is Phase.WATCHING


def test_a_skipped_hold_ends_the_step_with_its_first_pass(world: World, control: Control) -> None:
    began = world.uptime
    control.skip_hold(RELEASE, ADA)
    world.until(Phase.PROGRESSING, step=2)
    assert world.uptime - began < 2
    assert not world.state.hold_skipped


def test_a_skipped_hold_still_needs_the_evidence(world: World, control: Control) -> None:
    control.skip_hold(RELEASE, ADA)
    world.requests(0).tick(40)
    assert world.state.step == 1


def test_a_hold_skipped_in_the_last_step_does_not_skip_the_watch(world: World, control: Control) -> None:
    world.until(Phase.PROGRESSING, step=2)
    control.skip_hold(RELEASE, ADA)
    world.until(Phase.WATCHING).tick(20)
    assert world.phase is Phase.WATCHING


def test_a_skipped_watch_makes_the_candidate_stable(world: World, control: Control) -> None:
    world.until(Phase.WATCHING)
    control.skip_hold(RELEASE, ADA)
    world.tick(2)
    assert (world.phase, world.route.stable) == (Phase.DONE, world.candidate)


def test_a_skipped_watch_ends_early_only_on_a_pass(world: World, control: Control) -> None:
    world.until(Phase.WATCHING).requests(0)
    control.skip_hold(RELEASE, ADA)
    world.tick(8)
    assert world.phase is Phase.WATCHING
    world.requests(100).until(Phase.DONE, ticks=20)


def test_a_hold_is_not_skipped_over_a_verdict_against_the_candidate(world: World, control: Control) -> None:
    world.envoy_answers = False
    world.tick(8)
    with pytest.raises(ActSuperseded, match=r"the verdict .* is ERROR: Envoy is gone"):
        control.skip_hold(RELEASE, ADA)


def test_who_comes_second_is_told_who_did_what(world: World, control: Control) -> None:
    control.pause(RELEASE, ADA)
    with pytest.raises(
        ActSuperseded, match=r"paused already, paused by ada: lunch \(2026-11-21 12:00:\d\d UTC\)"
    ):
        control.pause(RELEASE, BOB)
    with pytest.raises(ActSuperseded, match="is paused, paused by ada: lunch"):
        control.skip_hold(RELEASE, BOB)
    control.resume(RELEASE, ADA)
    with pytest.raises(ActSuperseded, match="is not paused, resumed by ada: lunch"):
        control.resume(RELEASE, BOB)
    control.skip_hold(RELEASE, ADA)
    with pytest.raises(ActSuperseded, match="skipped already, hold skipped by ada"):
        control.skip_hold(RELEASE, BOB)


def test_what_somebody_did_since_one_looked_comes_first(world: World, control: Control) -> None:
    seen = world.state.generation
    control.skip_hold(RELEASE, ADA)
    with pytest.raises(ActSuperseded, match="changed meanwhile: hold skipped by ada"):
        control.pause(RELEASE, ControlRequest("bob", "wait", seen=seen))


def test_a_step_of_the_plan_since_one_looked_is_no_conflict(world: World, control: Control) -> None:
    seen = world.state.generation
    world.until(Phase.PROGRESSING, step=2)
    assert control.pause(RELEASE, ControlRequest("bob", "wait", seen=seen)).paused


def test_what_is_over_stays_over(world: World, control: Control) -> None:
    world.rollouts.roll_back(RELEASE, reason="aborted by eve: no")
    for act in (control.pause, control.resume, control.skip_hold):
        with pytest.raises(ActSuperseded, match="is over: rolled back, aborted by eve: no"):
            act(RELEASE, ADA)


def test_of_two_buttons_at_the_same_moment_one_wins(world: World, control: Control) -> None:
    for _ in range(10):
        said: list[str] = []
        together = Barrier(2)

        def press(
            act: str, request: ControlRequest, said: list[str] = said, together: Barrier = together
        ) -> None:
            mine = Control(world.journal, now=world.now)
            seen = world.state.generation
            together.wait()
            try:
                getattr(mine, act)(RELEASE, ControlRequest(request.by, request.reason, seen=seen))
                said.append("done")
            except ActSuperseded as problem:
                said.append(problem.problem)

        people = [Thread(target=press, args=("pause", ADA)), Thread(target=press, args=("skip_hold", BOB))]
        for person in people:
            person.start()
        for person in people:
            person.join()
        assert sorted(word == "done" for word in said) == [False, True]
        assert any("by ada" in word or "by bob" in word for word in said)
        world.rollouts._journal.save(  # a fresh step for the next try
            world.state.left_alone(), world.journal.timeline(RELEASE)[0]
        )

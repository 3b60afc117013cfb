"""Whole releases in the simulated world."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model_store.errors import Retryable
from serving.control.rollout.plan import Finish, Hold, Phase, Promote, Rollback, RolloutStep, Shift
from serving.types import ALL_STABLE, RouteSettings, Slot, TrafficSplit
from tests.unit.serving.world import PLAN, RELEASE, SERVICE, World, deployed


@pytest.fixture
def world() -> World:
    return World()


def test_a_healthy_release_takes_every_step_and_becomes_stable(world: World) -> None:
    world.until(Phase.DONE)
    assert world.route.stable == world.candidate
    assert (world.route.candidate, world.split) == (None, ALL_STABLE)
    moves = [action for action in world.actions if not isinstance(action, Hold)]
    assert moves == [Shift(0), Shift(1), Shift(2), Promote(), Finish()]


def test_every_step_is_held_as_long_as_the_plan_says(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    began = world.uptime
    world.until(Phase.PROGRESSING, step=2)
    assert world.uptime - began >= 2


def test_error_rate_breach_returns_all_traffic_to_stable(world: World) -> None:
    world.until(Phase.PROGRESSING, step=0).candidate_errors(0.2).tick(8)
    assert world.split == TrafficSplit(stable=100, candidate=0, mirrored=False)
    assert world.phase is Phase.ROLLED_BACK
    assert "candidate failed" in world.state.reason


def test_a_candidate_that_turns_bad_during_the_watch_is_rolled_back(world: World) -> None:
    world.until(Phase.WATCHING).candidate_errors(0.2).tick(20)
    assert (world.phase, world.split, world.route.stable) == (Phase.ROLLED_BACK, ALL_STABLE, world.stable)


def test_a_slow_candidate_is_rolled_back(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1).candidate_slow(0.3).tick(100)
    assert world.phase is Phase.ROLLED_BACK


def test_without_traffic_nothing_passes_and_the_release_is_given_up_in_the_end(world: World) -> None:
    world.requests(0).tick(140, seconds=4)
    assert (world.phase, world.state.step) == (Phase.PROGRESSING, 0)
    world.tick(20, seconds=4)
    assert world.phase is Phase.ROLLED_BACK
    assert "no pass within 600 s" in world.state.reason


def test_a_step_passes_only_after_enough_requests(world: World) -> None:
    world.requests(10).until(Phase.PROGRESSING, step=0)
    while world.seen_by_candidate < PLAN.policy.min_requests:
        assert world.state.step == 0
        world.tick()
    world.until(Phase.PROGRESSING, step=1, ticks=10)


def test_blue_green_previews_and_then_switches_once() -> None:
    steps = (RolloutStep(ALL_STABLE, 5), RolloutStep(TrafficSplit(0, 100), 0))
    world = World(plan=replace(PLAN, strategy="blue_green", steps=steps)).tick(10)
    assert (world.state.step, world.split) == (0, ALL_STABLE)
    world.until(Phase.WATCHING)
    assert world.split == TrafficSplit(0, 100)
    world.until(Phase.DONE)


def test_the_first_version_of_a_service_takes_all_traffic_and_is_judged_alone() -> None:
    world = World(has_stable=False).until(Phase.PROGRESSING, step=0)
    assert world.split == TrafficSplit(0, 100)
    world.until(Phase.DONE)
    assert world.route.stable == world.candidate


def test_a_first_version_that_nobody_calls_is_promoted_and_watched_from_its_first_request_on() -> None:
    world = World(has_stable=False).requests(0).until(Phase.WATCHING, ticks=60).tick(200)
    assert (world.phase, world.split) == (Phase.WATCHING, TrafficSplit(0, 100))
    assert world.actions[-1] == Hold("it serves, and is watched from its first request on")
    world.requests(1).tick(3)
    assert isinstance(world.actions[-1], Hold)
    assert world.actions[-1].reason.startswith("watching for ")
    world.requests(0).until(Phase.DONE)


def test_a_first_version_that_few_call_does_not_wait_for_requests_that_nobody_sends() -> None:
    world = World(has_stable=False).requests(0).until(Phase.PROGRESSING, step=0).requests(1).tick(2)
    world.requests(0).until(Phase.WATCHING, ticks=100)
    assert world.seen_by_candidate < PLAN.policy.min_requests


def test_a_first_version_that_fails_is_withdrawn_before_anyone_depends_on_it() -> None:
    world = World(has_stable=False).until(Phase.PROGRESSING, step=0).candidate_errors(0.5).tick(40)
    assert (world.phase, world.split) == (Phase.ROLLED_BACK, ALL_STABLE)


def test_a_first_version_that_fails_later_is_kept_because_nothing_stands_behind_it() -> None:
    world = World(has_stable=False).until(Phase.WATCHING).candidate_errors(0.5).tick(80)
    assert (world.phase, world.split) == (Phase.WATCHING, TrafficSplit(0, 100))
    assert isinstance(world.actions[-1], Hold)
    assert "no version to return to" in world.actions[-1].reason


def test_starting_twice_changes_nothing(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    before = (world.state, world.route)
    world.rollouts.start(RELEASE, PLAN, world.candidate, RouteSettings())
    assert (world.state, world.route) == before


def test_a_second_release_cannot_start_while_one_progresses(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    with pytest.raises(Retryable, match="still rolling out"):
        world.rollouts.start("fraud-v3-20261121T130000Z", PLAN, deployed(3, Slot.BLUE), RouteSettings())


def test_a_newer_release_ends_the_watch_of_the_one_before(world: World) -> None:
    world.until(Phase.WATCHING)
    world.rollouts.start("fraud-v3-20261121T130000Z", PLAN, deployed(3, Slot.BLUE), RouteSettings())
    assert world.phase is Phase.DONE
    assert (world.route.stable, world.route.candidate) == (world.candidate, deployed(3, Slot.BLUE))


def test_a_person_can_roll_back_at_any_time(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    world.rollouts.roll_back(RELEASE, reason="asked for by Ada")
    assert (world.phase, world.split, world.state.reason) == (
        Phase.ROLLED_BACK,
        ALL_STABLE,
        "asked for by Ada",
    )


def test_a_rolled_back_candidate_is_withdrawn_so_that_its_pods_can_go(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    world.rollouts.roll_back(RELEASE, reason="test")
    assert world.route.candidate == world.candidate
    assert world.rollouts.withdraw(RELEASE).candidate is None
    assert world.rollouts.withdraw(RELEASE).candidate is None


def test_withdrawing_a_release_under_way_does_nothing(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    assert world.rollouts.withdraw(RELEASE).candidate == world.candidate


def test_the_timeline_tells_the_story(world: World) -> None:
    world.until(Phase.DONE)
    kinds = [(event.kind, event.candidate_weight) for event in world.journal.timeline(RELEASE)]
    assert kinds == [
        ("started", 0),
        ("shift", 10),
        ("shift", 50),
        ("shift", 100),
        ("promoted", 100),
        ("done", 0),
    ]


def test_a_release_that_is_over_stays_as_it_is(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1).candidate_errors(1.0).tick(8)
    over = world.state
    world.candidate_errors(0.0).tick(40)
    assert world.state == over
    assert world.split == ALL_STABLE


def test_rolling_back_twice_is_once(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    first = world.rollouts.roll_back(RELEASE, reason="one")
    assert world.rollouts.roll_back(RELEASE, reason="two") == first


def test_a_release_whose_traffic_somebody_took_away_is_rolled_back(world: World) -> None:
    world.until(Phase.PROGRESSING, step=1)
    world.router.write(SERVICE, ALL_STABLE, stable=world.stable, candidate=None, at=world.route.revision)
    world.tick()
    assert world.phase is Phase.ROLLED_BACK
    assert not isinstance(world.actions[-1], Rollback)
    assert "taken away" in world.state.reason

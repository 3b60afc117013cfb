"""Pods that come late, move and are lost while a release rolls out."""

from __future__ import annotations

import pytest

from model_store.errors import Retryable
from serving.control.rollout.plan import Hold, Phase
from serving.platforms.base import DeploymentStatus
from serving.types import ALL_STABLE, DeploymentRef, TrafficSplit
from tests.moving_platform import MovingPlatform
from tests.unit.serving.world import World


@pytest.fixture
def platform() -> MovingPlatform:
    return MovingPlatform()


@pytest.fixture
def world(platform: MovingPlatform) -> World:
    return World(platform=platform)


def why_held(world: World) -> str:
    action = world.actions[-1]
    assert isinstance(action, Hold)
    return action.reason


def test_a_rollout_waits_for_pods_that_come_late_and_then_goes_on() -> None:
    world = World(platform=MovingPlatform(late_looks=20))
    world.tick(10)
    assert (world.phase, world.split) == (Phase.PROGRESSING, ALL_STABLE)
    assert why_held(world).startswith("the candidate's pods: 0/3 nodes have room: Insufficient memory")
    world.until(Phase.DONE)
    assert world.route.stable == world.candidate


@pytest.mark.parametrize("arm", ["stable", "candidate"])
def test_pods_that_move_in_the_middle_of_a_canary_are_followed_with_weights_unchanged(
    world: World, platform: MovingPlatform, arm: str
) -> None:
    world.until(Phase.PROGRESSING, step=1)
    deployment, revision = getattr(world, arm), world.route.revision
    now = platform.move(deployment.ref)
    world.tick()
    assert getattr(world.route, arm).endpoints == now != deployment.endpoints
    assert (world.split, world.route.revision) == (TrafficSplit(50, 50), revision)
    world.until(Phase.DONE)
    assert world.route.stable is not None
    assert world.route.stable.ref == world.candidate.ref


def test_pods_that_move_just_before_a_decision_is_carried_out_take_nothing_back(
    world: World, platform: MovingPlatform
) -> None:
    world.until(Phase.PROGRESSING, step=0)
    write = world.router.write

    def moved_first(*args: object, **kwargs: object) -> object:
        world.router.write = write  # type: ignore[method-assign]
        platform.move(world.stable.ref)
        assert world.pods is not None
        world.pods.look()
        return write(*args, **kwargs)  # type: ignore[arg-type]

    world.router.write = moved_first  # type: ignore[method-assign, assignment]
    world.until(Phase.PROGRESSING, step=1).tick()
    assert (world.phase, world.split) == (Phase.PROGRESSING, TrafficSplit(50, 50))
    assert world.route.stable is not None
    assert world.route.stable.endpoints == platform.status(world.stable.ref).endpoints


def test_a_lost_candidate_is_rolled_back_with_what_the_platform_says_of_it(
    world: World, platform: MovingPlatform
) -> None:
    world.until(Phase.PROGRESSING, step=1)
    platform.lose(world.candidate.ref, "node gpu-3 went away")
    world.silent = True
    world.tick(4)
    assert world.phase is Phase.PROGRESSING
    assert "node gpu-3 went away" in why_held(world)
    # Nothing is where nothing answers: the gateway goes on with the address that it has.
    assert world.route.candidate == world.candidate
    world.tick(24)
    assert (world.phase, world.split) == (Phase.ROLLED_BACK, ALL_STABLE)
    assert world.state.reason.endswith("while stable's are: node gpu-3 went away")


def test_a_lost_candidate_that_comes_back_in_time_goes_on(world: World, platform: MovingPlatform) -> None:
    world.until(Phase.PROGRESSING, step=1)
    platform.lose(world.candidate.ref, "node gpu-3 went away")
    world.silent = True
    world.tick(8)
    platform.move(world.candidate.ref)
    world.silent = False
    world.until(Phase.DONE)


def test_pods_that_the_platform_gave_up_on_end_the_release_at_once(
    world: World, platform: MovingPlatform
) -> None:
    world.tick()
    platform.give_up(world.candidate.ref, "OOM-killed at 2.1 GiB, five times")
    # The words of a verdict are made every second.
    world.tick(5)
    assert (world.phase, world.split) == (Phase.ROLLED_BACK, ALL_STABLE)
    assert world.state.reason == "the candidate's pods: OOM-killed at 2.1 GiB, five times"


def test_a_watch_does_not_end_while_the_candidates_pods_are_missing(
    world: World, platform: MovingPlatform
) -> None:
    world.until(Phase.WATCHING)
    platform.lose(world.candidate.ref, "evicted")
    world.tick(400)
    assert world.phase is Phase.WATCHING
    platform.move(world.candidate.ref)
    world.until(Phase.DONE)


def test_a_platform_that_cannot_be_asked_holds_nothing_up_and_moves_nothing(
    world: World, platform: MovingPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.until(Phase.PROGRESSING, step=1)
    platform.lose(world.candidate.ref, "evicted")
    world.tick(8)

    def away(ref: DeploymentRef) -> DeploymentStatus:
        raise Retryable("the API server is away", remedy="wait")

    monkeypatch.setattr(platform, "status", away)
    world.until(Phase.DONE)
    assert world.route.stable == world.candidate

"""However a release ends: where traffic, pods, lock, alias and tags are then."""

from __future__ import annotations

import pytest

from serving.control import finalization, release_deployment
from serving.control.finalization import ReleaseEnd, VersionStatus
from serving.control.release_queue import acquire
from serving.control.releases import Release
from serving.control.rollout.plan import Phase
from serving.types import TrafficSplit
from tests.airflow.world import MODEL, World

FAILED = {"rollout.roll_out": "the pods are gone"}


def under_way(world: World, version: int, steps: int = 1) -> Release:
    """A release of `version` that holds the lock and has taken `steps` steps."""
    release = world.release(version, second=version)
    acquire(world.services, release)
    deployment = release_deployment.deploy(world.services, release, world.bundle(version).id)
    world.rollouts.start(release.id, deployment.id)
    for _ in range(steps):
        world.tick(release.id)
    return release


def test_a_failure_during_the_canary_returns_all_traffic_and_ends_the_candidate(world: World) -> None:
    world.serve(1)
    release = under_way(world, 2)
    ending = finalization.finalize_traffic(world.services, release, FAILED)
    route = world.router.read(MODEL)
    assert ending == ReleaseEnd(VersionStatus.ROLLED_BACK, "rollout.roll_out: the pods are gone")
    assert (route.split, route.candidate) == (TrafficSplit(100, 0), None)
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [1]


def test_a_run_marked_as_done_in_mid_rollout_leaves_nothing_half_rolled_out(world: World) -> None:
    world.serve(1)
    release = under_way(world, 2)
    assert finalization.finalize_traffic(world.services, release, {}).status is VersionStatus.ROLLED_BACK
    assert world.router.read(MODEL).split == TrafficSplit(100, 0)


def test_settling_twice_is_settling_once(world: World) -> None:
    world.serve(1)
    release = under_way(world, 2)
    first = finalization.finalize_traffic(world.services, release, FAILED)
    assert finalization.finalize_traffic(world.services, release, FAILED) == first


def test_a_release_that_failed_before_traffic_is_blocked_and_its_pods_are_ended(world: World) -> None:
    world.serve(1)
    release = world.release(2, second=1)
    acquire(world.services, release)
    release_deployment.deploy(world.services, release, world.bundle(2).id)
    ending = finalization.finalize_traffic(world.services, release, {"rollout.deploy": "not ready in time"})
    assert ending == ReleaseEnd(VersionStatus.BLOCKED, "rollout.deploy: not ready in time")
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [1]


def test_a_version_that_lost_its_traffic_gives_the_alias_back(world: World) -> None:
    world.serve(1)
    release = under_way(world, 2, steps=3)
    assert world.journal.load(release.id).phase is Phase.WATCHING
    release_deployment.move_champion(world.services, release)
    ending = finalization.finalize_traffic(world.services, release, {"rollout.watch": "errors after all"})
    finalization.record_in_registry(world.services, release, ending, bundle_id="b")
    assert world.registry.champion == 1
    assert world.registry.tags[2]["slipway.status"] == "rolled_back"


def test_a_first_version_that_lost_its_traffic_leaves_no_champion(world: World) -> None:
    release = under_way(world, 1)
    release_deployment.move_champion(world.services, release)
    ending = finalization.finalize_traffic(world.services, release, FAILED)
    finalization.record_in_registry(world.services, release, ending, bundle_id=None)
    assert world.registry.champion is None


def test_the_tag_says_why_in_words(world: World) -> None:
    release = world.release(3)
    why = "bundle.choose: no candidate kept every limit"
    finalization.record_in_registry(
        world.services, release, ReleaseEnd(VersionStatus.BLOCKED, why), bundle_id=None
    )
    assert world.registry.tags[3] == {
        "slipway.status": "blocked",
        "slipway.reason": why,
        "slipway.release": release.id,
    }


def test_after_a_good_release_the_previous_pods_are_ended(world: World) -> None:
    world.serve(1)
    release = under_way(world, 2, steps=4)
    assert world.journal.load(release.id).phase is Phase.DONE
    assert finalization.finalize_traffic(world.services, release, {}).status is VersionStatus.PROMOTED
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [2]


def test_pods_that_a_newer_release_makes_ready_are_left_alone(world: World) -> None:
    world.serve(1)
    old = under_way(world, 2, steps=3)
    world.lock.release(MODEL, old.id)
    newer = world.release(3, second=30)
    acquire(world.services, newer)
    release_deployment.deploy(world.services, newer, world.bundle(3).id)
    finalization.finalize_traffic(world.services, old, {})
    assert sorted(pods.version for pods in world.platform.deployments(MODEL)) == [2, 3]


def test_only_a_version_that_serves_can_be_promoted(world: World) -> None:
    world.serve(1)
    release = under_way(world, 2)
    world.rollouts.roll_back(release.id, reason="errors")
    with pytest.raises(release_deployment.RolledBack, match="errors"):
        release_deployment.require_promoted(world.services, release)


def test_an_old_run_cleared_after_a_newer_version_took_over_promotes_nothing(world: World) -> None:
    world.serve(1)
    old = under_way(world, 2, steps=4)
    world.lock.release(MODEL, old.id)
    finalization.finalize_traffic(world.services, old, {})
    under_way(world, 3, steps=4)
    with pytest.raises(Exception, match="model_rollback"):
        release_deployment.require_promoted(world.services, old)


def test_a_new_release_ends_the_watch_of_the_last_one_before_it_takes_its_slot(world: World) -> None:
    world.serve(1)
    watched = under_way(world, 2, steps=3)
    world.lock.release(MODEL, watched.id)
    newer = world.release(3, second=30)
    acquire(world.services, newer)
    release_deployment.deploy(world.services, newer, world.bundle(3).id)
    route = world.router.read(MODEL)
    assert world.journal.load(watched.id).phase is Phase.DONE
    assert route.stable is not None
    assert route.stable.version == 2


def test_a_rollout_whose_run_is_gone_is_rolled_back_by_the_next_release(world: World) -> None:
    world.serve(1)
    gone = under_way(world, 2)
    world.lock.release(MODEL, gone.id)
    newer = world.release(3, second=30)
    acquire(world.services, newer)
    release_deployment.deploy(world.services, newer, world.bundle(3).id)
    assert world.journal.load(gone.id).phase is Phase.ROLLED_BACK


def test_the_bundle_that_serves_is_not_released_again(world: World) -> None:
    world.serve(1)
    again = world.release(1, second=5)
    assert release_deployment.serves_already(world.services, again, world.bundle(1).id)
    assert not release_deployment.serves_already(world.services, again, world.bundle(2).id)


def test_a_rolled_back_release_is_not_deployed_again_when_its_run_is_cleared(world: World) -> None:
    world.serve(1)
    release = under_way(world, 2)
    finalization.finalize_traffic(world.services, release, FAILED)
    with pytest.raises(release_deployment.RolledBack):
        release_deployment.deploy(world.services, release, world.bundle(2).id)

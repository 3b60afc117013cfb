"""Back to an earlier version on request."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from slipway_airflow import going_back, rolling
from slipway_airflow.admission import Turn, take_turn
from slipway_airflow.going_back import Wish

from model_store.errors import Permanent
from serving.rollout.lock import Claim
from serving.rollout.plan import Phase
from serving.types import TrafficSplit
from tests.airflow.world import MODEL, World


def wish(version: int | None = None, *, second: int = 0, run_id: str = "r") -> Wish:
    at = datetime(2026, 11, 22, 8, 0, second, tzinfo=UTC) if second else datetime.now(UTC)
    return Wish(MODEL, version, "users complain", "INC-7", "grace", run_id, at)


def released(world: World, version: int, *, steps: int) -> str:
    """A release of `version`, `steps` steps on its way (4: over)."""
    release = world.release(version, second=version)
    take_turn(world.services, release)
    deployment = rolling.place(world.services, release, world.bundle(version).id)
    rolling.start(world.services, release, deployment.id)
    for _ in range(steps):
        world.rollouts.advance(release.id)
    world.lock.release(MODEL, release.id)
    return release.id


def test_a_watched_version_leaves_by_one_weight_change(world: World) -> None:
    world.serve(1)
    release = released(world, 2, steps=3)
    writes = world.router.read(MODEL).revision
    rollback = going_back.begin(world.services, wish())
    route = world.router.read(MODEL)
    assert (rollback.leaves, rollback.returns) == (2, 1)
    assert going_back.serving(world.services, rollback)
    assert route.split == TrafficSplit(100, 0)
    assert route.revision - writes <= 2
    assert world.journal.load(release).phase is Phase.ROLLED_BACK
    assert "INC-7" in world.journal.load(release).reason


def test_a_canary_leaves_at_once_without_the_lock(world: World) -> None:
    world.serve(1)
    released(world, 2, steps=1)
    world.lock.acquire(MODEL, Claim(datetime.now(UTC), "someone"))
    going_back.begin(world.services, wish())
    assert world.router.read(MODEL).split == TrafficSplit(100, 0)


def test_a_version_that_stands_no_more_is_started_from_its_bundle(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    rollback = going_back.begin(world.services, wish())
    assert (rollback.leaves, rollback.returns) == (2, 1)
    assert not going_back.serving(world.services, rollback)
    assert going_back.take_turn(world.services, rollback)
    deployment = going_back.place(world.services, rollback)
    going_back.switch(world.services, rollback, deployment.id)
    assert going_back.serving(world.services, rollback)
    assert world.built == []


def test_a_named_version_is_found_among_the_bundles(world: World) -> None:
    for version in (1, 2, 3):
        released(world, version, steps=4)
    rollback = going_back.begin(world.services, wish(1))
    assert going_back.take_turn(world.services, rollback)
    deployment = going_back.place(world.services, rollback)
    assert deployment.bundle_id == world.bundle(1).id


def test_a_version_without_a_bundle_is_refused_with_those_that_have_one(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    with pytest.raises(Permanent) as refused:
        going_back.bundle_of(world.services, MODEL, 9)
    assert "1, 2" in refused.value.remedy


def test_the_first_version_has_nothing_to_go_back_to(world: World) -> None:
    released(world, 1, steps=4)
    with pytest.raises(Permanent, match="no version served before"):
        going_back.begin(world.services, wish())


def test_a_version_that_serves_is_no_version_to_go_back_to(world: World) -> None:
    released(world, 1, steps=4)
    with pytest.raises(Permanent, match="serves already"):
        going_back.begin(world.services, wish(1))


def test_alias_tags_and_evidence_follow(world: World) -> None:
    world.serve(1)
    released(world, 2, steps=3)
    rollback = going_back.begin(world.services, wish())
    going_back.book(world.services, rollback, at=datetime.now(UTC))
    assert world.registry.champion == 1
    assert world.registry.tags[2]["slipway.status"] == "rolled_back"
    assert world.registry.tags[2]["slipway.incident"] == "INC-7"
    assert "users complain" in world.registry.evidence[rollback.id].description


def test_beginning_twice_is_beginning_once(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    asked = wish()
    assert going_back.begin(world.services, asked) == going_back.begin(world.services, asked)


def test_an_old_rollback_cleared_later_leaves_newer_releases_alone(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    asked = wish()
    rollback = going_back.begin(world.services, asked)
    going_back.take_turn(world.services, rollback)
    going_back.switch(world.services, rollback, going_back.place(world.services, rollback).id)
    going_back.let_go(world.services, rollback)
    newer = released(world, 3, steps=1)
    going_back.begin(world.services, asked)
    assert world.journal.load(newer).phase is Phase.PROGRESSING


def test_a_rollback_comes_before_the_release_that_waits(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    holder, waiting = world.release(3, second=30), world.release(4, second=40)
    take_turn(world.services, holder)
    take_turn(world.services, waiting)
    rollback = going_back.begin(world.services, wish())
    assert not going_back.take_turn(world.services, rollback)
    assert take_turn(world.services, waiting).words == f"superseded by {rollback.id}"
    world.lock.release(MODEL, holder.id)
    assert going_back.take_turn(world.services, rollback)
    going_back.let_go(world.services, rollback)
    assert take_turn(world.services, world.release(4, second=50)).turn is Turn.TAKEN


def test_after_a_rollback_only_the_pods_that_serve_stand(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    rollback = going_back.begin(world.services, wish())
    going_back.take_turn(world.services, rollback)
    going_back.switch(world.services, rollback, going_back.place(world.services, rollback).id)
    going_back.let_go(world.services, rollback)
    assert [pods.version for pods in world.target.deployments(MODEL)] == [1]

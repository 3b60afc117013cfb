"""Task states and XComs are hints: what gets pods and traffic is asked of what only Slipway writes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model_store.bundle import publishing as bundles
from model_store.signing import NotSigned, distrust_older, rotate
from model_store.types import Check, GateReport
from serving.control.controller.rollout_jobs import NotReleasable, require_releasable
from serving.control.release_queue import acquire
from tests.airflow.world import World


def test_what_the_release_built_gets_traffic(world: World) -> None:
    release = world.release(2)
    bundle = world.bundle_of(release)
    require_releasable(world.services, world.releases.load(release.id), bundle.id)


def test_a_forged_xcom_names_another_versions_bundle(world: World) -> None:
    release = world.release(2)
    world.bundle_of(release)
    other = world.bundle(3)
    with pytest.raises(NotReleasable, match="it is not what the release published"):
        require_releasable(world.services, world.releases.load(release.id), other.id)


def test_a_task_that_was_marked_successful_built_nothing(world: World) -> None:
    release, other = world.release(2), world.bundle(2)
    with pytest.raises(NotReleasable, match="which is none"):
        require_releasable(world.services, release, other.id)


def test_another_versions_bundle_in_the_releases_record_gets_no_traffic(world: World) -> None:
    release, other = world.release(2), world.bundle(3)
    world.releases.built(release.id, other.id, at=release.request.at)
    with pytest.raises(NotReleasable, match=r"it is .* v3"):
        require_releasable(world.services, world.releases.load(release.id), other.id)


def test_a_bundle_whose_gates_refused_it_gets_no_traffic(world: World) -> None:
    release = world.release(2)
    failed = GateReport("sha256:0", (Check("auc minimum", 0.8, 0.9, passed=False),))
    bundle = bundles.publish(world.store, replace(world._contents(2), report=failed))
    world.releases.built(release.id, bundle.id, at=release.request.at)
    with pytest.raises(NotReleasable, match="its gates did not pass it: auc minimum"):
        require_releasable(world.services, world.releases.load(release.id), bundle.id)


def test_a_bundle_that_nobody_trusted_signed_gets_no_traffic(world: World) -> None:
    release = world.release(2)
    bundle = world.bundle_of(release)
    rotate(world.store.keys)
    distrust_older(world.store.keys)
    with pytest.raises(NotSigned):
        require_releasable(world.services, world.releases.load(release.id), bundle.id)


def test_the_controller_starts_no_pods_of_another_bundle(world: World) -> None:
    release, other = world.release(2), world.bundle(3)
    acquire(world.services, release)
    world.bundle_of(release)
    with pytest.raises(NotReleasable, match="gets no traffic by"):
        world.rollouts.begin(release.id, other.id)
    assert world.platform.deployments() == []

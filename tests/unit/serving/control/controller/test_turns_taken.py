"""What a rollback that takes a model's turn meets: pods that others start or end, traffic nobody judges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.control import finalization, release_deployment
from serving.control.release_queue import acquire
from serving.control.rollbacks import RollbackRequest
from serving.control.rollout.lock import Claim
from serving.control.traffic import RollbackPhase, RolloutPhase
from serving.control.wiring import now
from serving.platforms.memory import MemoryPlatform
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, Slot, TrafficSplit
from tests.airflow.world import MODEL, World
from tests.unit.serving.control.controller.test_rollout_jobs import Candidate, Scene, until

ROLLBACK = f"{MODEL}-rollback-20261121T120000Z"


class Interrupted(MemoryPlatform):
    """Something happens after the first pods were ended."""

    meanwhile: Callable[[], object] = lambda: None

    def retire(self, ref: DeploymentRef) -> None:
        super().retire(ref)
        self.meanwhile()


def taken(world: World, release_id: str) -> None:
    world.lock.release(MODEL, release_id)
    world.lock.acquire(MODEL, Claim(now(), ROLLBACK))


def test_a_release_that_lost_its_turn_while_its_bundle_was_fetched_starts_no_pods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(World(tmp_path), Candidate())
    release, bundle = scene.asked_for()
    fetched: Any = release_deployment.open_bundle

    def slowly(*which: Any) -> Any:
        taken(scene.world, release.id)
        return fetched(*which)

    monkeypatch.setattr(release_deployment, "open_bundle", slowly)
    scene.acts.begin(release.id, bundle)
    until(lambda: scene.progress(release).phase is RolloutPhase.FAILED)
    assert f"lost its turn to {ROLLBACK}" in scene.progress(release).words
    assert scene.world.platform.deployments(MODEL) == []


def test_who_clears_away_ends_no_pods_of_who_took_its_turn_meanwhile(tmp_path: Path) -> None:
    world = World(tmp_path, platform=(platform := Interrupted()))
    release = world.release(1)
    acquire(world.services, release)
    for version, slot in ((1, Slot.BLUE), (2, Slot.GREEN)):
        release_deployment.start_pods(world.services, world.bundle(version), slot, replicas=1)
    platform.meanwhile = lambda: taken(world, release.id)
    gone = finalization.retire_unnamed(world.services, MODEL, release.id)
    assert len(gone) == len(platform.deployments(MODEL)) == 1


def test_a_candidate_of_which_no_rollout_is_known_can_be_rolled_back(tmp_path: Path) -> None:
    scene = Scene(World(tmp_path), Candidate())
    scene.world.serve(1)
    route = scene.world.router.read(MODEL)
    candidate = Deployment(DeploymentRef(MODEL, Slot.GREEN, "b2", 2), (Endpoint("127.0.0.1", 9002),))
    scene.world.router.write(
        MODEL, TrafficSplit(50, 50), stable=route.stable, candidate=candidate, at=route.revision
    )
    asked = RollbackRequest(MODEL, None, "nobody judges it", "", "ann", "run-1", now())
    back = scene.acts.roll_model_back(asked)
    assert (back.leaves, back.returns, back.phase) == (2, 1, RollbackPhase.RETURNED)
    after = scene.world.router.read(MODEL)
    assert (after.split, after.stable) == (ALL_STABLE, route.stable)
    scene.acts.jobs.join(20)

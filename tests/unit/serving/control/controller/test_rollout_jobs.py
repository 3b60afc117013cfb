"""How rollouts begin in the controller: each apart from the others, with nobody of Airflow's there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store.engines.noise import NOISE
from model_store.errors import Permanent, Retryable
from model_store.stages.sample import Sample
from serving.control import audit_entries
from serving.control.audit import AuditEntry
from serving.control.controller.acts import Acts
from serving.control.release_queue import acquire
from serving.control.releases import Release
from serving.control.rollout.plan import Phase
from serving.control.traffic import RolloutPhase, RolloutProgress
from serving.control.wiring import now
from serving.platforms.base import DeploymentStatus
from serving.platforms.memory import MemoryPlatform
from serving.types import DeploymentRef
from tests.airflow.world import MODEL, World

SCORES = np.linspace(0, 1, 8, dtype=np.float32)


class Candidate:
    """Answers as in the gates, once it is `there`."""

    def __init__(self) -> None:
        self.there = threading.Event()
        self.asked = 0

    @contextmanager
    def opened(self) -> Iterator[Candidate]:
        yield self

    def answer(self, rows: Any, *, until: float) -> Any:
        self.asked += 1
        if not self.there.is_set():
            raise Retryable("connection refused", remedy="start Envoy")
        return {"score": rows["x"]}


class Poisoned(MemoryPlatform):
    """Asked how pods are it hangs, raises, or says nonsense, until `mended`."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.mended = how, threading.Event()

    def status(self, ref: DeploymentRef) -> DeploymentStatus:
        if self.mended.is_set():
            return super().status(ref)
        if self.how == "hangs":
            self.mended.wait(60)
        elif self.how == "raises":
            raise RuntimeError("the cluster is on fire")
        nonsense: Any = 7
        return nonsense


class Scene:
    def __init__(self, world: World, candidate: Candidate) -> None:
        self.world, self.candidate = world, candidate
        self.acts = Acts(world._rollouts, lambda: world.services, self.candidate_of, linger_seconds=0)

    def candidate_of(self, *_: object) -> Any:
        return self.candidate

    def progress(self, release: Release) -> RolloutProgress:
        return self.acts.progress([release.id])[release.id]

    def asked_for(self, version: int = 1, *, sample: str = "") -> tuple[Release, str]:
        release, bundle = self.world.release(version, second=version), self.world.bundle(version)
        acquire(self.world.services, release)
        return self.world.releases.built(release.id, bundle.id, at=now(), sample=sample), bundle.id


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(World(tmp_path), Candidate())


def until(condition: Callable[[], bool]) -> None:
    """Fails after a time that no machine needs."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def test_asked_once_it_starts_pods_and_begins_without_being_asked_again(scene: Scene) -> None:
    release, bundle = scene.asked_for()
    scene.world.platform.hold_back(bundle)
    assert scene.acts.begin(release.id, bundle).phase is RolloutPhase.STARTING
    until(lambda: "held back" in scene.progress(release).words)
    scene.world.platform.release(bundle)
    until(lambda: scene.progress(release).phase is RolloutPhase.PROGRESSING)
    assert len(scene.world.journal.releases(MODEL)) == 1


def test_a_first_version_is_asked_by_the_controller_also_by_one_that_was_restarted(scene: Scene) -> None:
    kept = scene.world.store.put_bytes(Sample({"x": SCORES}, {"score": SCORES}, NOISE["fp32"]).to_bytes())
    release, bundle = scene.asked_for(sample=kept)
    scene.acts.begin(release.id, bundle)
    until(lambda: scene.candidate.asked > 0)
    scene.acts.starts.stop(release.id)  # as a controller that is killed
    again = Scene(scene.world, Candidate())
    again.candidate.there.set()
    state = scene.world.journal.load(release.id)
    assert state.unproven
    again.acts.starts.resume([state])
    until(lambda: not scene.world.journal.load(release.id).unproven)


def test_one_that_somebody_aborts_while_its_pods_start_begins_no_rollout(scene: Scene) -> None:
    release, bundle = scene.asked_for()
    scene.world.platform.hold_back(bundle)
    scene.acts.begin(release.id, bundle)
    until(lambda: "held back" in scene.progress(release).words)
    # As the page writes it down; that the run is over reaches the controller by a task, which may take long.
    entry = AuditEntry(now(), "ann", "abort", MODEL, release.version, release.id, "wrong data")
    audit_entries.trail_of(scene.world.services).append(entry)
    scene.world.platform.release(bundle)
    until(lambda: scene.progress(release).phase is RolloutPhase.FAILED)
    assert "aborted by ann" in scene.progress(release).words
    assert scene.world.journal.releases(MODEL) == []


def test_a_release_whose_file_is_torn_keeps_no_other_first_version_from_being_asked(scene: Scene) -> None:
    kept = scene.world.store.put_bytes(Sample({"x": SCORES}, {"score": SCORES}, NOISE["fp32"]).to_bytes())
    release, bundle = scene.asked_for(sample=kept)
    scene.acts.begin(release.id, bundle)
    until(lambda: scene.candidate.asked > 0)
    scene.acts.starts.stop(release.id)
    again = Scene(scene.world, Candidate())
    again.candidate.there.set()
    state = scene.world.journal.load(release.id)
    again.acts.starts.resume([replace(state, release_id=f"{MODEL}-v9-20261121T120000Z"), state])
    until(lambda: not scene.world.journal.load(release.id).unproven)


def test_pods_that_fail_are_told_once_and_the_next_try_begins_anew(scene: Scene) -> None:
    release, bundle = scene.asked_for()
    scene.world.platform.fail(bundle, "no such image")
    scene.acts.begin(release.id, bundle)
    until(lambda: scene.progress(release).phase is RolloutPhase.FAILED)
    with pytest.raises(Permanent, match="no such image"):
        scene.acts.begin(release.id, bundle)
    assert scene.progress(release).phase is RolloutPhase.UNKNOWN
    # Neither ready nor failed again before it is looked at.
    scene.world.platform.release(bundle)
    scene.world.platform.hold_back(bundle)
    assert scene.acts.begin(release.id, bundle).phase is RolloutPhase.STARTING
    scene.world.platform.release(bundle)
    until(lambda: scene.progress(release).phase is not RolloutPhase.STARTING)


def test_a_run_that_ends_while_pods_start_begins_no_rollout_and_leaves_no_pods(scene: Scene) -> None:
    release, bundle = scene.asked_for()
    scene.world.platform.hold_back(bundle)
    scene.acts.begin(release.id, bundle)
    until(lambda: bool(scene.world.platform.deployments(MODEL)))
    assert scene.acts.end(release.id, reason="somebody ended it").phase is RolloutPhase.UNKNOWN
    scene.world.platform.release(bundle)
    scene.acts.settlement.look()
    until(lambda: not any(thread.name.startswith("rollout ") for thread in threading.enumerate()))
    scene.acts.settlement.look()
    assert (scene.world.journal.releases(MODEL), scene.world.platform.deployments(MODEL)) == ([], [])


@pytest.mark.parametrize("how", ["hangs", "raises", "answers nonsense"])
def test_one_whose_platform_is_poisoned_keeps_no_other_from_beginning(tmp_path: Path, how: str) -> None:
    platform = Poisoned(how)
    poisoned = Scene(World(tmp_path / "poisoned", platform=platform), Candidate())
    release, bundle = poisoned.asked_for()
    # More than the controller has threads for requests, and none of them waits for the platform.
    for _ in range(40):
        with suppress(Retryable, Permanent):
            poisoned.acts.begin(release.id, bundle)
    good = Scene(World(tmp_path / "good"), Candidate())
    other, its = good.asked_for()
    good.acts.begin(other.id, its)
    until(lambda: good.progress(other).phase is RolloutPhase.PROGRESSING)
    assert poisoned.world.journal.releases(MODEL) == []
    platform.mended.set()
    poisoned.acts.starts.join(30)
    while poisoned.progress(release).phase is not RolloutPhase.PROGRESSING:
        with suppress(Retryable, Permanent):
            poisoned.acts.begin(release.id, bundle)
    assert poisoned.world.journal.load(release.id).phase is Phase.PROGRESSING

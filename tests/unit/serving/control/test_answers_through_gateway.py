"""A first version is asked through the gateway what the gates asked it, before anybody is sent there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store.engines.noise import NOISE
from model_store.errors import Permanent, Retryable
from model_store.stages.sample import Sample
from serving.control import release_deployment
from serving.control.answers_through_gateway import BATCH, SINGLY, NotAsInTheGates, prove
from serving.control.releases import Release
from serving.control.rollout.decide import UNPROVEN, Observation, decide
from serving.control.rollout.plan import Hold, Phase, Rollback, RolloutState, Shift
from serving.control.wiring import now
from serving.gateway.router.base import TooManyRequests, TooManyRows
from serving.types import ALL_STABLE, Outcome, Verdict
from tests.airflow.world import World

ROWS = 64
SAMPLE = Sample(
    {"input": np.arange(ROWS * 4, dtype=np.float32).reshape(ROWS, 4)},
    {"label": np.arange(ROWS) % 2, "score": np.linspace(0, 1, ROWS, dtype=np.float32)},
    NOISE["fp32"],
)


class Candidate:
    """Answers as the gates saw, but for `wrong` rows. `most`: rows that it takes at once."""

    def __init__(self, *, wrong: int = 0, most: int = ROWS, fails: Exception | None = None) -> None:
        self.wrong, self.most, self.fails = wrong, most, fails
        self.asked: list[int] = []
        self.entered = 0

    @contextmanager
    def opened(self) -> Iterator[Candidate]:
        self.entered += 1
        yield self

    def answer(self, rows: Mapping[str, Any], *, until: float) -> Mapping[str, Any]:
        count = len(rows["input"])
        if count > self.most:
            raise TooManyRows(f"{count} rows", remedy="send fewer")
        if self.fails and sum(self.asked):
            raise self.fails
        first = int(rows["input"][0, 0] // 4)
        self.asked.append(count)
        score = SAMPLE.outputs["score"][first : first + count].copy()
        score[[place for place in range(count) if first + place < self.wrong]] += 0.1
        return {"label": SAMPLE.outputs["label"][first : first + count], "score": score}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def begun(world: World, *, kept: bool = True) -> Release:
    """A first release whose pods are ready and in the route, at weight 0."""
    release = world.release(1)
    bundle = world.bundle(1)
    sample = world.store.put_bytes(SAMPLE.to_bytes()) if kept else ""
    release = world.releases.built(release.id, bundle.id, at=now(), sample=sample)
    deployment = release_deployment.deploy(world.services, release, bundle.id)
    world.rollouts.start(release.id, deployment.id)
    return release


def asked(world: World, release: Release, candidate: Candidate) -> str:
    words = prove(world.services, release, lambda home, route: candidate, seconds=5)
    world._rollouts.proven(release.id, reason=words)
    return words


def seen(state: RolloutState, outcome: Outcome = Outcome.PASS, *, waited: float = 0) -> Any:
    verdict = replace(Verdict.of([], at=state.started_at), outcome=outcome)
    return decide(state, Observation(verdict, waited))


def test_until_then_nobody_is_sent_there_and_afterwards_everybody_is(world: World) -> None:
    release = begun(world)
    state = world.journal.load(release.id)
    assert (state.unproven, seen(state)) == (True, Hold(UNPROVEN))
    words = asked(world, release, Candidate())
    assert words.startswith("64 evaluation rows were answered")
    state = world.journal.load(release.id)
    assert (state.unproven, seen(state)) == (False, Shift(0))


def test_rows_are_asked_one_by_one_and_together(world: World) -> None:
    candidate = Candidate()
    asked(world, begun(world), candidate)
    assert candidate.asked == [1] * SINGLY + [BATCH] * ((ROWS - SINGLY) // BATCH)
    assert candidate.entered == 1


@pytest.mark.parametrize("wrong", [1, ROWS])
def test_a_wrong_answer_ends_the_release_with_the_reason(world: World, wrong: int) -> None:
    release = begun(world)
    with pytest.raises(NotAsInTheGates, match="answers 1 of 1 evaluation rows otherwise than in the gates"):
        asked(world, release, Candidate(wrong=wrong))
    state = world.journal.load(release.id)
    assert state.phase is Phase.ROLLED_BACK
    assert state.reason.startswith("it was sent to nobody: through the gateway fraud v1 answers 1 of 1")
    assert world.router.read(release.model).split == ALL_STABLE


def test_a_failed_answer_ends_the_release_with_what_was_said(world: World) -> None:
    release = begun(world)
    with pytest.raises(Permanent, match="500"):
        asked(world, release, Candidate(fails=Permanent("it answers with 500 out of memory", remedy="?")))
    assert "500 out of memory" in world.journal.load(release.id).reason


def test_a_model_that_takes_few_rows_at_once_is_asked_row_by_row(world: World) -> None:
    candidate = Candidate(most=1)
    asked(world, begun(world), candidate)
    assert candidate.asked == [1] * ROWS


def test_a_limit_on_requests_lets_a_part_stand_for_all(world: World) -> None:
    release = begun(world)
    limited = Candidate(fails=TooManyRequests("429 too many", remedy="wait"))
    assert asked(world, release, limited).startswith("1 evaluation rows")
    assert not world.journal.load(release.id).unproven


def test_pods_that_die_of_a_row_are_not_taken_for_a_limit(world: World) -> None:
    release = begun(world)
    with pytest.raises(Retryable, match="503"):
        asked(world, release, Candidate(fails=Retryable("503 nobody", remedy="wait")))
    assert world.journal.load(release.id).unproven


def test_where_nobody_can_be_asked_the_release_waits_and_gives_up_in_time(world: World) -> None:
    release = begun(world)
    silent = Candidate(fails=Retryable("connection refused", remedy="start Envoy"))
    silent.asked = [1]
    with pytest.raises(Retryable, match="refused"):
        asked(world, release, silent)
    state = world.journal.load(release.id)
    assert (state.phase, state.unproven) == (Phase.PROGRESSING, True)
    assert isinstance(seen(state, waited=state.plan.max_step_seconds + 1), Rollback)


def test_pods_that_fail_meanwhile_are_taken_out_at_once(world: World) -> None:
    state = world.journal.load(begun(world).id)
    assert isinstance(seen(state, Outcome.FAIL), Rollback)


def test_of_a_stochastic_model_only_the_form_is_compared(world: World) -> None:
    release = begun(world)
    serving = release.spec.serving.model_copy(update={"stochastic": True})
    drawn = replace(release, spec=release.spec.model_copy(update={"serving": serving}))
    asked(world, drawn, Candidate(wrong=ROWS))
    assert not world.journal.load(release.id).unproven


def test_a_version_beside_a_stable_one_is_judged_by_its_canary(world: World) -> None:
    world.serve(1)
    release = world.release(2)
    bundle = world.bundle(2)
    sample = world.store.put_bytes(SAMPLE.to_bytes())
    release = world.releases.built(release.id, bundle.id, at=now(), sample=sample)
    deployment = release_deployment.deploy(world.services, release, bundle.id)
    assert not world.rollouts.start(release.id, deployment.id).unproven


def test_a_bundle_of_before_such_rows_were_kept_goes_on_as_before(world: World) -> None:
    assert not world.journal.load(begun(world, kept=False).id).unproven


def test_what_was_kept_survives_until_the_release_has_ended(world: World) -> None:
    from serving.control.unfinished_releases import needed_by_unfinished

    release = begun(world)
    assert release.bundles[-1].sample in needed_by_unfinished(world.services).blobs


def test_a_controller_without_an_engine_reads_what_the_gates_kept() -> None:
    """Its image has none (deploy/controller)."""
    kept = "import sys; sys.modules['onnxruntime'] = None; import model_store.stages.sample"
    subprocess.run([sys.executable, "-c", kept], check=True, timeout=60)

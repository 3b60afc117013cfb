"""Versions that refuse requests, and clients that send what nobody can answer, in a simulated world."""

from __future__ import annotations

import pytest

from serving.control.controller.watch import ReleaseWatch
from serving.control.rollout.plan import Phase
from serving.types import ALL_STABLE
from tests.unit.serving.world import RELEASE, World


@pytest.fixture
def world() -> World:
    return World().until(Phase.PROGRESSING, step=1)


def test_a_candidate_that_refuses_what_stable_answers_is_taken_out_with_airflow_stopped(world: World) -> None:
    world.candidate_refuses(0.38).tick(8)
    assert (world.phase, world.split) == (Phase.ROLLED_BACK, ALL_STABLE)
    assert "candidate refused" in world.state.reason
    assert "with 4xx; stable 0 of" in world.state.reason


def test_one_that_refuses_little_is_found_too(world: World) -> None:
    world.candidate_refuses(0.03).tick(400)
    assert world.phase is Phase.ROLLED_BACK


def test_after_promotion_what_its_predecessor_took_takes_a_version_back() -> None:
    world = World().until(Phase.WATCHING).candidate_refuses(0.38).tick(12)
    assert (world.phase, world.split) == (Phase.ROLLED_BACK, ALL_STABLE)


@pytest.mark.parametrize("rate", [0.3, 0.9])
def test_garbage_and_values_that_both_refuse_cost_no_release(rate: float) -> None:
    world = World().requests(1000).clients_send_garbage(rate).both_refuse(rate)
    assert world.until(Phase.DONE).phase is Phase.DONE


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_garbage_that_begins_after_promotion_costs_no_release(rate: float) -> None:
    world = World().until(Phase.WATCHING).clients_send_garbage(rate)
    assert world.until(Phase.DONE).phase is Phase.DONE


def test_values_that_stable_refuses_too_cost_no_promoted_release() -> None:
    world = World().until(Phase.WATCHING).both_refuse(0.4)
    assert world.until(Phase.DONE).phase is Phase.DONE


@pytest.mark.parametrize(
    ("kind", "has_stable"),
    [("refused", True), ("malformed", True), ("failed", True), ("refused", False), ("failed", False)],
)
def test_no_version_is_promoted_on_nothing_but_refusals(has_stable: bool, kind: str) -> None:
    world = World(has_stable=has_stable)
    match kind:
        case "refused":
            world.both_refuse(1.0)
        case "malformed":
            world.clients_send_garbage(1.0)
        case "failed":
            world.candidate_errors(1.0).stable_errors(1.0)
    world.tick(400)
    assert world.phase is not Phase.DONE
    assert world.phase is not Phase.WATCHING


def test_what_garbage_clients_send_keeps_no_first_version_back() -> None:
    world = World(has_stable=False).clients_send_garbage(1.0).tick(400)
    assert world.phase in (Phase.WATCHING, Phase.DONE)


def test_a_restarted_controller_believes_of_refusals_what_it_believed_before(world: World) -> None:
    world.both_refuse(0.2).clients_send_garbage(0.1).tick(21)
    before = world.controller.watches[RELEASE]
    resumed = ReleaseWatch.resume(world.journal, world.state)
    assert resumed.written == before.written
    assert before.written
    assert resumed.belief.candidate == resumed.tally.candidate == before.written.candidate
    assert resumed.belief.candidate.refused > 0 < resumed.belief.candidate.malformed

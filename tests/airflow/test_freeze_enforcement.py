"""In a freeze nothing rolls out; everything may go back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from slipway_airflow import triggers

from serving.control import freeze_enforcement, release_deployment
from serving.control.freezes import Frozen
from serving.control.release_queue import QueueState, acquire
from serving.control.releases import Release
from serving.control.rollout.plan import Phase
from serving.control.wiring import now
from serving.ledger import rows
from serving.types import Outcome
from tests.airflow.world import MODEL, World


def freeze(world: World, model: str | None = None) -> Frozen:
    freezes = freeze_enforcement.freezes_of(world.services)
    return freezes.add(model, by="ada", reason="audit", until=now() + timedelta(hours=1), at=now())


def lift(world: World, frozen: Frozen) -> None:
    freeze_enforcement.freezes_of(world.services).lift(frozen.id, by="ada", at=now())


def under_way(world: World) -> Release:
    world.serve(1)
    release = world.release(2)
    acquire(world.services, release)
    deployment = release_deployment.deploy(world.services, release, world.bundle(2).id)
    world.rollouts.start(release.id, deployment.id)
    return release


def look(world: World, release: Release) -> str | None:
    """What its task is woken with, if it is."""
    phase = world.tick(release.id).phase
    return None if phase is Phase.PROGRESSING else phase.value


def test_a_release_waits_for_the_end_of_the_freeze_and_says_so(world: World) -> None:
    frozen, release = freeze(world), world.release(1)
    place = acquire(world.services, release)
    assert (place.turn, place.words) == (QueueState.WAITING, frozen.words)
    assert triggers.ReleaseLockTrigger(release.id).look() is None
    lift(world, frozen)
    assert triggers.ReleaseLockTrigger(release.id).look() == "holds the release lock"


def test_of_those_that_wait_for_the_end_of_a_freeze_the_newest_goes_on(world: World) -> None:
    frozen, first, second = freeze(world), world.release(1), world.release(2, second=1)
    acquire(world.services, first)
    acquire(world.services, second)
    place = acquire(world.services, first)
    assert place.turn is QueueState.OVER
    assert place.words.startswith(f"superseded by {second.id} while it was frozen")
    lift(world, frozen)
    assert acquire(world.services, second).turn is QueueState.TAKEN


def test_a_freeze_of_another_model_holds_nobody(world: World) -> None:
    freeze(world, "churn")
    assert acquire(world.services, world.release(1)).turn is QueueState.TAKEN


def test_an_overridden_release_does_not_wait(world: World) -> None:
    freeze(world)
    release = world.release(1)
    freeze_enforcement.freezes_of(world.services).override(release.id, by="eve", reason="hotfix", at=now())
    assert acquire(world.services, release).turn is QueueState.TAKEN


def test_a_rollout_half_way_keeps_its_split_and_goes_on_afterwards(world: World) -> None:
    release = under_way(world)
    look(world, release)
    before = world.router.read(MODEL).split
    frozen = freeze(world)
    for _ in range(5):
        assert look(world, release) is None
    assert world.router.read(MODEL).split == before
    assert freeze_enforcement.is_frozen(world.journal.load(release.id))
    lift(world, frozen)
    for _ in range(20):
        look(world, release)
    assert world.journal.load(release.id).phase is Phase.DONE


def test_a_frozen_rollout_that_fails_is_rolled_back(world: World) -> None:
    release = under_way(world)
    look(world, release)
    freeze(world)
    look(world, release)
    world.journal.verdicts[world.journal.load(release.id).step] = Outcome.FAIL
    assert look(world, release) == "rolled_back"


def test_what_a_person_paused_stays_paused_when_a_freeze_ends(world: World) -> None:
    from serving.control.rollout.control import ControlRequest

    release = under_way(world)
    look(world, release)
    freeze_enforcement.control_of(world.services).pause(release.id, ControlRequest("bob", "lunch"))
    frozen = freeze(world)
    look(world, release)
    lift(world, frozen)
    look(world, release)
    assert world.journal.load(release.id).paused == "by bob: lunch"


def test_a_person_may_take_a_pause_over_from_the_freeze(world: World) -> None:
    from serving.control.rollout.control import ActSuperseded, ControlRequest

    release = under_way(world)
    look(world, release)
    frozen = freeze(world)
    look(world, release)
    seen = world.journal.load(release.id).generation
    freeze_enforcement.pause(world.services, release.id, ControlRequest("bob", "not on Monday", seen))
    lift(world, frozen)
    look(world, release)
    assert world.journal.load(release.id).paused == "by bob: not on Monday"
    with pytest.raises(ActSuperseded, match="paused by bob: not on Monday"):
        freeze_enforcement.pause(world.services, release.id, ControlRequest("eve", "me too"))


def test_a_person_who_saw_no_freeze_takes_nothing_over(world: World) -> None:
    from serving.control.rollout.control import ActSuperseded, ControlRequest

    release = under_way(world)
    look(world, release)
    seen = world.journal.load(release.id).generation
    freeze(world)
    look(world, release)
    with pytest.raises(ActSuperseded, match="paused by the freeze"):
        freeze_enforcement.pause(world.services, release.id, ControlRequest("bob", "lunch", seen))


def test_a_rollout_that_is_let_pass_says_by_whom(world: World) -> None:
    release = under_way(world)
    look(world, release)
    freeze(world)
    look(world, release)
    freeze_enforcement.freezes_of(world.services).override(release.id, by="eve", reason="hotfix", at=now())
    look(world, release)
    kinds = [(event.kind, event.detail) for event in world.journal.timeline(release.id)]
    assert ("resumed", "by the freeze: eve let it pass: hotfix") in kinds


def test_a_rollback_takes_its_turn_from_a_release_that_waits_for_a_freeze(world: World) -> None:
    from serving.control import rollbacks
    from serving.control.rollbacks import RollbackRequest

    world.serve(1)
    world.serve(2)
    freeze(world)
    waiting = world.release(3)
    acquire(world.services, waiting)
    request = RollbackRequest(MODEL, 1, "wrong", "", "ada", "run-back", now())
    rollback = rollbacks.begin(world.services, request)
    assert rollbacks.acquire_lock(world.services, rollback)
    assert acquire(world.services, waiting).turn is QueueState.OVER


def test_a_release_whose_window_never_comes_is_read_and_held_by_nothing(world: World) -> None:
    """Specs took such windows and schedules once; nobody can write them any more."""
    release = world.release(2)
    row = world.rows.get(rows.ReleaseRecord, release.id)
    windows = [{"reason": "never", "cron": "0 0 31 2 *", "hours": 1}]
    spec = {**row.document["spec"], "freezes": windows, "schedule": "0 0 30 2 *"}
    world.rows.save(replace(row, document={**row.document, "spec": spec}))
    again = world.releases.load(release.id)
    assert (again.ref, again.spec.freezes[0].reason) == (release.ref, "never")
    assert acquire(world.services, again).turn is QueueState.TAKEN

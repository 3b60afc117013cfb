"""One release of a model at a time; of those that wait, the newest."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException
from slipway_airflow import links, run_states, triggers
from slipway_airflow.operators import AcquireReleaseLock

from model_store.errors import Permanent, Retryable
from serving.control import freeze_enforcement, rollbacks
from serving.control.queries import outcomes
from serving.control.release_queue import QueueState, acquire, drop_ended, release_lock
from serving.control.releases import Release
from serving.control.rollbacks import RollbackRequest
from serving.control.rollout.lock import Claim
from serving.control.wiring import now
from tests.airflow.world import MODEL, World


class TaskInstance(SimpleNamespace):
    """The running one, at its first try of two."""

    def __init__(self, **values: Any) -> None:
        super().__init__(try_number=1, max_tries=1, said={}, **values)

    def xcom_push(self, key: str, value: str) -> None:
        self.said[key] = value


def look(world: World, release: Release, ti: TaskInstance | None = None) -> Any:
    """The task's look at where the release stands."""
    task = AcquireReleaseLock(task_id="take_turn", spec=release.spec)
    links.forget(task)
    asked, ti = release.request, ti or TaskInstance()
    ti.task = task
    run = SimpleNamespace(
        dag_id=asked.dag_id,
        run_id=asked.run_id,
        run_after=asked.at,
        run_type="manual",
        triggering_user_name="ada",
    )
    params = {"version": asked.version, "reason": asked.reason, "dry_run": False}
    context: Any = {"ti": ti, "dag_run": run, "params": params}
    return task.look(context)


@pytest.fixture
def over(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Run ids of runs that are over; add to it."""
    ended: set[str] = set()
    monkeypatch.setattr(run_states, "is_over", lambda dag_id, run_id: run_id in ended)
    return ended


def test_the_first_request_takes_the_lock(world: World) -> None:
    assert acquire(world.services, world.release(1)).turn is QueueState.TAKEN


def test_asking_again_keeps_the_lock(world: World) -> None:
    release = world.release(1)
    acquire(world.services, release)
    assert acquire(world.services, release).turn is QueueState.TAKEN


def test_a_second_request_waits_for_the_first_and_says_so(world: World) -> None:
    first, second = world.release(1), world.release(2, second=1)
    acquire(world.services, first)
    place = acquire(world.services, second)
    assert (place.turn, place.words) == (QueueState.WAITING, f"waits for {first.id}")


def test_the_waiting_request_goes_on_when_the_first_is_over(world: World) -> None:
    first, second = world.release(1), world.release(2, second=1)
    acquire(world.services, first)
    acquire(world.services, second)
    release_lock(world.services, first)
    assert acquire(world.services, second).turn is QueueState.TAKEN


def test_a_newer_request_supersedes_the_one_that_waits(world: World) -> None:
    first, second, third = world.release(1), world.release(2, second=1), world.release(3, second=2)
    for release in (first, second, third):
        acquire(world.services, release)
    place = acquire(world.services, second)
    assert (place.turn, place.words) == (QueueState.OVER, f"superseded by {third.id}")


def test_a_request_superseded_once_stays_so_when_the_newer_one_holds_the_lock(world: World) -> None:
    first, second, third = world.release(1), world.release(2, second=1), world.release(3, second=2)
    for release in (first, second, third):
        acquire(world.services, release)
    release_lock(world.services, first)
    acquire(world.services, third)
    assert acquire(world.services, second).words == f"superseded by {third.id}"


def test_the_same_version_asked_for_twice_is_released_once(world: World) -> None:
    first, again = world.release(1), world.release(1, second=1)
    acquire(world.services, first)
    place = acquire(world.services, again)
    assert place.turn is QueueState.OVER
    assert first.id in place.words
    assert "same version" in place.words
    assert world.lock.read(MODEL).waiting is None


def test_two_requests_within_one_second_get_names_of_their_own(world: World) -> None:
    assert world.release(1, run_id="a").id != world.release(1, run_id="b").id


def test_a_run_that_starts_again_is_the_same_release_though_the_alias_moved(world: World) -> None:
    first = world.release(1, run_id="a")
    again = world.releases.open(first.request, world.spec, lambda wanted: 2)
    assert (again.id, again.version) == (first.id, 1)


def test_a_holder_whose_run_is_over_is_passed_over(world: World, over: set[str]) -> None:
    first, second = world.release(1), world.release(2, second=1)
    acquire(world.services, first)
    drop_ended(world.services, MODEL, run_states.is_over)
    assert acquire(world.services, second).turn is QueueState.WAITING
    over.add(first.request.run_id)
    drop_ended(world.services, MODEL, run_states.is_over)
    assert acquire(world.services, second).turn is QueueState.TAKEN


def test_one_that_waits_and_whose_run_is_over_is_passed_over(world: World, over: set[str]) -> None:
    first, dead, older = world.release(1), world.release(3, second=2), world.release(2, second=1)
    for release in (first, dead):
        acquire(world.services, release)
    over.add(dead.request.run_id)
    drop_ended(world.services, MODEL, run_states.is_over)
    assert acquire(world.services, older).turn is QueueState.WAITING


def test_a_rollback_that_is_over_is_passed_over_and_what_nobody_knows_stays(
    world: World, over: set[str]
) -> None:
    world.serve(1)
    world.serve(2)
    over |= {"run-back", "somebody"}
    rollback = rollbacks.begin(
        world.services, RollbackRequest(MODEL, 1, "wrong", "", "ada", "run-back", now())
    )
    rollbacks.acquire_lock(world.services, rollback)
    drop_ended(world.services, MODEL, run_states.is_over)
    assert world.lock.read(MODEL).holder, "its run says nothing of it: the controller carries it out"
    rollbacks.note_failed(world.services, rollback, "out of memory")
    drop_ended(world.services, MODEL, run_states.is_over)
    assert world.lock.read(MODEL).holder is None
    world.lock.acquire(MODEL, Claim(now(), "somebody"))
    drop_ended(world.services, MODEL, run_states.is_over)
    assert world.lock.read(MODEL).holder is not None


def test_the_same_version_is_released_again_when_the_run_that_holds_it_is_over(
    world: World, over: set[str]
) -> None:
    dead, again = world.release(1), world.release(1, second=1)
    acquire(world.services, dead)
    over.add(dead.request.run_id)
    assert look(world, again) == again.id


def test_who_waits_for_a_run_that_ends_without_a_word_goes_on(
    world: World, over: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "DEAD_LOOK_SECONDS", 0.0)
    dead, second = world.release(1), world.release(2, second=1)
    acquire(world.services, dead)
    trigger = triggers.ReleaseLockTrigger(second.id)
    assert trigger.look() is None
    over.add(dead.request.run_id)
    assert trigger.look() == "holds the release lock"


def fails(problem: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise problem

    return fail


@pytest.mark.parametrize("where", ["holding", "note_release", "mark_releasing"])
def test_a_turn_that_fails_leaves_nobody_behind_it(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    from serving.control import audit_entries, finalization

    release = world.release(1)
    acquire(world.services, release)
    module = {"holding": freeze_enforcement, "note_release": audit_entries, "mark_releasing": finalization}[
        where
    ]
    monkeypatch.setattr(module, where, fails(Permanent("the disk is full", remedy="make room")))
    with pytest.raises(Permanent):
        look(world, release)
    assert world.lock.read(MODEL).holder is None


@pytest.mark.parametrize(("tries", "kept"), [(1, False), (2, True)])
def test_a_turn_that_failed_for_good_says_why(
    world: World, monkeypatch: pytest.MonkeyPatch, tries: int, kept: bool
) -> None:
    release, ti = world.release(1), TaskInstance()
    ti.try_number = tries
    away = Retryable("the disk is away", remedy="wait", delay_seconds=0)
    monkeypatch.setattr(freeze_enforcement, "holding", fails(away))
    with pytest.raises(Retryable):
        look(world, release, ti)
    outcome = outcomes.of(world.rows, release.id)
    assert bool(outcome) is kept
    if outcome:
        assert outcome.status == "blocked"
        assert outcome.reason.startswith("take_turn: the disk is away")


def test_a_superseded_release_is_shown_with_the_words_of_its_end(world: World) -> None:
    first, again, ti = world.release(1), world.release(1, second=1), TaskInstance()
    acquire(world.services, first)
    with pytest.raises(AirflowSkipException):
        look(world, again, ti)
    outcome = outcomes.of(world.rows, again.id)
    assert outcome
    words = f"superseded by {first.id}, which releases the same version"
    assert (outcome.status, outcome.reason, ti.said["ended"]) == ("superseded", words, words)


def test_a_place_that_is_lost_names_the_one_who_took_it(world: World) -> None:
    first, again = world.release(1), world.release(1, second=1)
    acquire(world.services, first)
    assert acquire(world.services, again).winner == first.id
    freeze_enforcement.freezes_of(world.services).add(None, by="ada", reason="audit", until=None, at=now())
    newer = world.release(2, second=2)
    acquire(world.services, newer)
    assert acquire(world.services, first).winner == newer.id

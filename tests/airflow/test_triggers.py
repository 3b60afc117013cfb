"""Waits that hold no worker slot."""

from __future__ import annotations

import asyncio
import threading

import pytest
from airflow.sdk._shared.module_loading import import_string
from slipway_airflow import triggers

from model_store.errors import Retryable
from serving.control import release_deployment
from serving.control.client import ControllerDown
from serving.control.release_queue import acquire
from serving.control.traffic import RolloutPhase, RolloutProgress
from serving.types import Outcome
from tests.airflow.world import MODEL, World


async def fired(trigger: triggers.PollingTrigger | triggers.RolloutTrigger, *, within: float = 5) -> str:
    """The words of the trigger's one event."""
    if isinstance(trigger, triggers.PollingTrigger):
        trigger.seconds = 0.01
    async with asyncio.timeout(within):
        async for event in trigger.run():
            return str(event.payload)
    raise AssertionError("no event")


def under_way(world: World) -> str:
    world.serve(1)
    release = world.release(2)
    acquire(world.services, release)
    deployment = release_deployment.deploy(world.services, release, world.bundle(2).id)
    return world.rollouts.start(release.id, deployment.id).release_id


@pytest.mark.parametrize(
    "trigger",
    [
        triggers.ReleaseLockTrigger("fraud-v1-20261121T200000Z"),
        triggers.CooldownTrigger(5.0),
    ],
    ids=lambda trigger: type(trigger).__name__,
)
def test_a_trigger_comes_back_as_it_was_from_its_own_words(trigger: triggers.PollingTrigger) -> None:
    path, kwargs = trigger.serialize()
    again = import_string(path)(**kwargs)
    assert (type(again), again.kwargs, again.seconds) == (type(trigger), trigger.kwargs, trigger.seconds)


async def test_a_rollout_moves_on_until_it_is_promoted(world: World) -> None:
    release = under_way(world)
    assert await fired(triggers.RolloutTrigger(release)) == "watching: passed every step"


async def test_a_failing_verdict_ends_the_wait(world: World) -> None:
    release = under_way(world)
    world.journal.verdicts[0] = Outcome.FAIL
    assert await fired(triggers.RolloutTrigger(release)) == "rolled_back: candidate is fail"


async def test_all_rollouts_that_a_triggerer_waits_for_are_asked_about_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[set[str]] = []

    def progress(releases: list[str]) -> dict[str, RolloutProgress]:
        asked.append(set(releases))
        if len(asked) == 1:
            raise ControllerDown("it is being started", remedy="wait")
        phase = RolloutPhase.PROGRESSING if len(asked) < 4 else RolloutPhase.WATCHING
        return {one: RolloutProgress(one, phase, "step 1") for one in releases}

    monkeypatch.setattr(triggers, "_progress_of", progress)
    monkeypatch.setattr(triggers.RolloutNews, "seconds", 0.01)
    names = {f"m{number}-v1-20261121T200000Z" for number in range(20)}
    events = await asyncio.gather(*(fired(triggers.RolloutTrigger(name)) for name in names))
    assert set(events) == {"watching: step 1"}
    assert asked == [names] * 4
    assert not triggers.ROLLOUTS._waiting


async def test_a_turn_comes_when_the_holder_gives_up(world: World) -> None:
    first, second = world.release(1), world.release(2, second=1)
    acquire(world.services, first)
    waiting = asyncio.create_task(fired(triggers.ReleaseLockTrigger(second.id)))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    world.lock.release(MODEL, first.id)
    assert await waiting == "holds the release lock"


async def test_a_superseded_turn_says_by_whom(world: World) -> None:
    first, second, third = world.release(1), world.release(2, second=1), world.release(3, second=2)
    for release in (first, second, third):
        acquire(world.services, release)
    assert await fired(triggers.ReleaseLockTrigger(second.id)) == f"superseded by {third.id}"


async def test_somebody_who_ends_a_waiting_task_frees_its_place(world: World) -> None:
    first, second = world.release(1), world.release(2, second=1)
    acquire(world.services, first)
    acquire(world.services, second)
    await triggers.ReleaseLockTrigger(second.id).on_kill()
    assert world.lock.read(MODEL).waiting is None


class Stubborn(triggers.PollingTrigger):
    """Fails as told, then says it is done. Notes the threads it looked from."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors, self.threads = list(errors), set[int]()

    def look(self) -> str | None:
        self.threads.add(threading.get_ident())
        if self.errors:
            raise self.errors.pop(0)
        return "done"


async def test_a_short_absence_is_waited_out() -> None:
    assert await fired(Stubborn(Retryable("down", remedy="wait"), Retryable("down", remedy="wait"))) == "done"


async def test_any_other_problem_wakes_the_task_which_can_say_it() -> None:
    assert await fired(Stubborn(ValueError("a torn file"))) == "ValueError: a torn file"


async def test_looking_never_blocks_the_triggerers_loop() -> None:
    trigger = Stubborn()
    await fired(trigger)
    assert threading.get_ident() not in trigger.threads

"""Every call comes back, whatever the batcher was doing when it came."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

import pytest

from model_store.engines.errors import Expired
from model_store.engines.manifest import Settings
from serving.pod.batching import Batcher
from serving.pod.call import BatchOutputs, Call
from serving.pod.call_queue import CallQueue
from serving.pod.execution import Executed, Executor
from serving.pod.patience import Patience
from tests.unit.serving.pod.calls import SIGNATURE, RememberedCall, ScriptedEngine

MAX_ROWS = 32
INTERLEAVINGS = 120
CALLS = 12


class Wilful(Patience):
    """Waits as chance has it, so that few interleavings show what traffic would show in hours."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(0.001, 0.0, 0.0)
        self._chance = chance

    def seconds(self, queued_rows: int, finished_rows: int, now: float) -> float:
        return self._chance.choice([0.0, 0.0003, 0.001])


class Delivery:
    """Hands answers out as a model does: one who followed a call that expired is submitted anew at once."""

    def __init__(self) -> None:
        self.batcher: Batcher | None = None
        self.followers: dict[Call, Call] = {}

    def batch_done(self, executed: list[Executed], rows: int, seconds: float) -> None:
        for part in executed:
            assert isinstance(part.outcome, BatchOutputs)
            self._hand_out(part.calls, part.outcome)

    def _hand_out(self, calls: Sequence[Call], outputs: BatchOutputs) -> None:
        first = 0
        for call in calls:
            call.answered(outputs, first)
            first += call.rows

    def calls_died(self, calls: list[Call]) -> None:
        assert self.batcher is not None
        for call in calls:
            call.failed(Expired())
            if call in self.followers:
                self.batcher.submit(self.followers.pop(call))


class SlowEngine(ScriptedEngine):
    def run_instead(self, rows):  # type: ignore[no-untyped-def]
        time.sleep(len(rows) * 5e-6)
        return super().run_instead(rows)


def batcher_of(delivery: Delivery, patience: Patience, *, inline: bool) -> Batcher:
    loop = asyncio.get_running_loop()
    executor = Executor(SlowEngine(), SIGNATURE, Settings(max_batch_size=64))
    queue = CallQueue(10_000)
    clock = loop.time
    found = Batcher(
        executor, queue, patience, delivery, max_rows=MAX_ROWS, inline=inline, loop=loop, clock=clock
    )
    delivery.batcher = found
    return found


def call_of(rows: int, deadline: float = float("inf")) -> RememberedCall:
    return RememberedCall(*[[row, rows] for row in range(rows)], deadline=deadline)


def is_settled(call: RememberedCall) -> bool:
    return (call.values, call.error) != (None, None)


async def settled(calls: Sequence[RememberedCall], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not all(is_settled(call) for call in calls):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.0002)
    return True


async def interleave(seed: int, *, inline: bool) -> None:
    chance = random.Random(seed)
    delivery = Delivery()
    batcher = batcher_of(delivery, Wilful(chance), inline=inline)
    loop, calls = asyncio.get_running_loop(), []
    for _ in range(CALLS):
        call = call_of(chance.choice([1, 2, 8, 31, 32, 33, 64]))
        if chance.random() < 0.2:
            call.deadline = loop.time()
            follower = delivery.followers[call] = call_of(1)
            calls.append(follower)
        calls.append(call)
        batcher.submit(call)
        if chance.random() < 0.5:
            await asyncio.sleep(chance.choice([0, 0, 0.0001, 0.0005, 0.0015]))
    # Nobody else comes to wake it.
    assert await settled(calls), f"calls were left behind in interleaving {seed}"
    assert batcher.queued_rows == 0
    late = call_of(1)
    batcher.submit(late)
    assert await settled([late]), f"the batcher stands still after interleaving {seed}"
    assert late.values == [[0.0, 2.0]]
    batcher.close()


@pytest.mark.parametrize("inline", [True, False], ids=["on the loop", "on a thread"])
def test_every_call_is_answered_whatever_the_batcher_was_doing_when_it_came(*, inline: bool) -> None:
    async def all_of_them() -> None:
        for seed in range(INTERLEAVINGS):
            await interleave(seed, inline=inline)

    asyncio.run(all_of_them())


class WaitsOnce(Patience):
    """Waits for a fuller batch after each one that was computed."""

    def __init__(self) -> None:
        super().__init__(0.001, 0.0, 0.0)

    def seconds(self, queued_rows: int, finished_rows: int, now: float) -> float:
        return 0.0003


def test_a_short_batch_that_waited_behind_long_ones_leaves_the_batcher_free() -> None:
    async def scene() -> None:
        batcher = batcher_of(Delivery(), WaitsOnce(), inline=True)
        long, short = call_of(64), call_of(1)
        batcher.submit(long)
        await asyncio.sleep(0)
        batcher.submit(short)
        assert await settled([long, short])
        for _ in range(3):
            later = call_of(1)
            batcher.submit(later)
            assert await settled([later])
        batcher.close()

    asyncio.run(scene())


class Wall:
    """Time that passes only when somebody spends it."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class CostlyEngine(ScriptedEngine):
    def __init__(self, wall: Wall, seconds: float) -> None:
        super().__init__()
        self._wall, self._seconds = wall, seconds

    def run_instead(self, rows):  # type: ignore[no-untyped-def]
        self._wall.now += self._seconds
        return super().run_instead(rows)


@pytest.mark.parametrize(
    ("reading_seconds", "batches"),
    [(0.0, 1), (0.0001, 1), (0.0012, 3), (1.0, 5)],
    ids=["not read", "read a little", "read for three batches", "idle before: bounded"],
)
def test_batches_in_a_row_get_as_much_time_as_reading_had(reading_seconds: float, batches: int) -> None:
    async def turn() -> int:
        wall, delivery = Wall(), Delivery()
        engine = CostlyEngine(wall, 0.0004)
        found = Batcher(
            Executor(engine, SIGNATURE, Settings(max_batch_size=64)),
            CallQueue(10_000),
            Patience(0.0, 0.0, 0.0),
            delivery,
            max_rows=1,
            inline=True,
            loop=asyncio.get_running_loop(),
            clock=wall,
        )
        found.submit(call_of(1))
        await asyncio.sleep(0)
        before = len(engine.batches)
        wall.now += reading_seconds
        for _ in range(20):
            found.submit(call_of(1))
        await asyncio.sleep(0)
        return len(engine.batches) - before

    assert asyncio.run(turn()) == batches

"""Calls of more rows than a batch: in pieces, others between, and no longer than somebody waits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model_store.engines.errors import status_of
from model_store.engines.manifest import Settings
from model_store.errors import SlipwayError
from serving.pod.batching import Batcher
from serving.pod.call import NEVER, BatchOutputs, Call
from serving.pod.call_queue import CallQueue
from serving.pod.execution import Executor
from serving.pod.large import LargeCalls
from serving.pod.patience import Patience
from serving.pod.sizes import Sizes
from serving.pod.warmup import Warmed
from tests.unit.serving.pod.calls import SIGNATURE, RememberedCall, ScriptedEngine, manifest_of
from tests.unit.serving.pod.test_batching import Delivery, call_of, settled

SIZES = Sizes(max_rows=64, max_json_rows=64, batch_rows=4, piece_rows=4, row_seconds=0.01, row_elements=(2,))
ON_BOTH = pytest.mark.parametrize("inline", [True, False], ids=["on the loop", "on a thread"])


class Rig:
    """A batcher of four rows at most, and time that passes only while the engine computes."""

    def __init__(self, *, inline: bool, sizes: Sizes = SIZES, engine: ScriptedEngine | None = None) -> None:
        self.now = 100.0
        self.engine = engine or ScriptedEngine()
        run = self.engine.run

        def timed(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            self.now += 0.001
            return run(inputs)

        self.engine.run = timed  # type: ignore[method-assign]
        self.seconds: list[float] = []
        self.large = LargeCalls(SIGNATURE, sizes, self._done)
        delivery = Delivery()
        self.batcher = delivery.batcher = Batcher(
            Executor(self.engine, SIGNATURE, Settings(max_batch_size=4)),
            CallQueue(1000),
            Patience(0.0, 0.0, 0.0),
            delivery,
            max_rows=4,
            inline=inline,
            loop=asyncio.get_running_loop(),
            clock=lambda: self.now,
            large=self.large,
        )

    def submit(self, rows: int, timeout: float = NEVER) -> RememberedCall:
        call = call_of(rows)
        call.arrived, call.timeout = self.now, timeout
        self.batcher.submit_large(call)
        return call

    def _done(self, call: Call, outcome: BatchOutputs | SlipwayError, seconds: float) -> None:
        self.seconds.append(seconds)
        if isinstance(outcome, BatchOutputs):
            call.answered(outcome, 0)
        else:
            call.failed(outcome)


def play(scene: Callable[[], Any]) -> None:
    asyncio.run(scene())


class Acting(ScriptedEngine):
    """Tells of each batch what came first in its rows; `acts` when it has computed so many batches."""

    def __init__(self, **acts: Callable[[], object]) -> None:
        super().__init__()
        self._acts = acts

    def run_instead(self, rows: np.ndarray) -> list[np.ndarray]:
        self._acts.get(f"after_{len(self.batches)}", lambda: None)()
        return super().run_instead(rows)


@ON_BOTH
def test_a_large_call_has_the_answer_that_its_rows_have_alone(*, inline: bool) -> None:
    async def scene() -> None:
        rig = Rig(inline=inline)
        call = rig.submit(15)
        assert await settled([call])
        assert call.values == [[2.0 * row, 30.0] for row in range(15)]
        assert rig.engine.batches == [4, 4, 4, 3]
        assert rig.batcher.queued_rows == 0

    play(scene)


@ON_BOTH
def test_others_have_a_turn_after_each_piece(*, inline: bool) -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        others: list[RememberedCall] = []

        def asks() -> None:
            def ask() -> None:
                others.append(call_of(1))
                rig.batcher.submit(others[-1])

            ask() if inline else loop.call_soon_threadsafe(ask)

        acts = {f"after_{n}": asks for n in (1, 3, 5)}
        rig = Rig(inline=inline, engine=Acting(**acts))
        call = rig.submit(16)
        assert await settled([call])
        assert await settled(others)
        # Whoever asks while a piece is computed comes next, however many rows are left of it.
        assert rig.engine.batches == [4, 1, 4, 1, 4, 1, 4]

    play(scene)


@ON_BOTH
def test_large_calls_do_not_starve_behind_others_either(*, inline: bool) -> None:
    async def scene() -> None:
        rig = Rig(inline=inline)
        call = rig.submit(12)
        others = [call_of(4) for _ in range(6)]
        for other in others:
            rig.batcher.submit(other)
        assert await settled([call, *others])
        assert call.values is not None
        assert rig.engine.batches == [4] * 9

    play(scene)


@ON_BOTH
def test_nothing_more_is_computed_for_a_caller_who_has_left(*, inline: bool) -> None:
    async def scene() -> None:
        rig = Rig(inline=inline, engine=Acting(after_2=lambda: leave()))
        call = rig.submit(40)

        def leave() -> None:
            call.left = True

        assert await settled([call])
        assert call.error is not None
        assert status_of(call.error) == 499
        assert rig.engine.batches == [4, 4]
        assert rig.batcher.queued_rows == 0

    play(scene)


@ON_BOTH
def test_nothing_is_computed_past_the_time_and_size_is_named_as_the_reason(*, inline: bool) -> None:
    async def scene() -> None:
        def slow() -> None:
            rig.now += 0.9

        rig = Rig(inline=inline, engine=Acting(after_2=slow))
        call = rig.submit(40, timeout=1.0)
        assert await settled([call])
        assert call.error is not None
        # Not 504: that would be repeated at the gateway, and counted against the version.
        assert status_of(call.error) == 413
        assert "40 rows" in call.error.problem
        assert rig.engine.batches == [4, 4]

    play(scene)


@ON_BOTH
def test_what_cannot_be_done_in_time_is_given_up_when_that_is_seen(*, inline: bool) -> None:
    async def scene() -> None:
        class Steady(ScriptedEngine):
            def run_instead(self, rows: np.ndarray) -> list[np.ndarray]:
                rig.now += 0.124
                return super().run_instead(rows)

        rig = Rig(inline=inline, engine=Steady())
        late, in_time = rig.submit(40, timeout=1.0), rig.submit(16, timeout=1.0)
        assert await settled([late, in_time])
        assert late.error is not None
        assert "at most 25 rows" in late.error.remedy
        assert in_time.values is not None
        # A fifth of the time told: forty rows would have taken more than there is.
        assert rig.engine.batches == [4] * (2 + 4)

    play(scene)


def test_more_large_calls_than_there_is_time_for_are_told_to_come_again() -> None:
    async def scene() -> None:
        rig = Rig(inline=True)
        first = rig.submit(60)
        with pytest.raises(SlipwayError, match="60 rows of other large requests are before") as refused:
            rig.submit(8)
        # Not 503: nobody else is to be asked for it, and no version is at fault.
        assert status_of(refused.value) == 429
        assert await settled([first])
        assert await settled([rig.submit(8)])

    play(scene)


def test_one_that_waited_for_others_until_its_time_was_up_is_told_to_come_again() -> None:
    async def scene() -> None:
        def slow() -> None:
            rig.now += 0.9

        rig = Rig(inline=True, engine=Acting(after_1=slow))
        rig.submit(8)
        second = rig.submit(8, timeout=1.0)
        assert await settled([second])
        assert second.error is not None
        assert status_of(second.error) == 429
        assert rig.engine.batches == [4, 4]

    play(scene)


@ON_BOTH
def test_a_piece_that_fails_fails_its_call_and_nobody_else(*, inline: bool) -> None:
    async def scene() -> None:
        def fail() -> None:
            raise RuntimeError("the engine was told to fail")

        rig = Rig(inline=inline, engine=Acting(after_2=fail))
        failing, fine = rig.submit(16), rig.submit(8)
        assert await settled([failing, fine])
        assert failing.error is not None
        assert status_of(failing.error) == 500
        assert fine.values is not None
        assert rig.engine.batches == [4, 4, 4, 4]

    play(scene)


@ON_BOTH
def test_every_call_is_answered_however_large_and_small_ones_meet(*, inline: bool) -> None:
    async def interleave(seed: int) -> None:
        chance = random.Random(seed)
        rig = Rig(inline=inline, sizes=replace(SIZES, max_rows=10_000))
        calls: list[RememberedCall] = []
        for _ in range(12):
            if chance.random() < 0.4:
                calls.append(rig.submit(chance.choice([5, 9, 40])))
                calls[-1].left = chance.random() < 0.2
            else:
                calls.append(call_of(chance.choice([1, 3, 4])))
                rig.batcher.submit(calls[-1])
            if chance.random() < 0.5:
                await asyncio.sleep(chance.choice([0, 0, 0.0001, 0.0005]))
        assert await settled(calls), f"calls were left behind in interleaving {seed}"
        late = call_of(1)
        rig.batcher.submit(late)
        assert await settled([late]), f"the batcher stands still after interleaving {seed}"
        assert rig.batcher.queued_rows == 0
        rig.batcher.close()

    async def all_of_them() -> None:
        for seed in range(60):
            await interleave(seed)

    play(all_of_them)


# Rows that have lengths


@pytest.mark.parametrize(
    ("shape", "weight"), [((1, 16), 1), ((4, 8), 2), ((1, 512), 32), ((32, 512), 1024), ((3, 17), 4)]
)
def test_a_longer_row_counts_as_several(shape: tuple[int, int], weight: int) -> None:
    assert replace(SIZES, row_elements=(16,)).weight([shape]) == weight


def test_long_rows_are_computed_in_pieces_of_fewer() -> None:
    async def scene() -> None:
        rig = Rig(inline=True, sizes=replace(SIZES, row_elements=(1,)))
        # Rows of two elements where warmup's had one: two of them weigh as much as a batch of four.
        call = rig.submit(7)
        assert await settled([call])
        assert rig.engine.batches == [2, 2, 2, 1]
        assert rig.batcher.queued_rows == 0

    play(scene)


# What is measured


def sizes_of(
    microseconds: dict[int, float], settings: Settings, elements: Sequence[int] = (4,), answers: int = 2
) -> Sizes:
    times = tuple((rows, time * 1e-6) for rows, time in microseconds.items())
    return Sizes.measured(manifest_of(settings), Warmed(times, tuple(elements), answers))


def test_a_request_may_have_the_rows_of_half_its_time() -> None:
    found = sizes_of({1: 100, 32: 2560}, Settings(timeout_ms=1000))
    assert found.max_rows == 500_000 // 80


def test_a_batch_is_always_taken_however_slow_the_model() -> None:
    found = sizes_of({1: 100_000, 32: 3_200_000}, Settings(timeout_ms=1000))
    assert (found.max_rows, found.max_json_rows, found.batch_rows) == (32, 32, 32)


def test_a_spec_may_allow_fewer_rows_but_not_more_than_there_is_time_for() -> None:
    times = {1: 100.0, 32: 2560.0}
    assert sizes_of(times, Settings(max_rows=100)).max_rows == 100
    assert sizes_of(times, Settings(max_rows=8)).batch_rows == 8
    assert sizes_of(times, Settings(max_rows=1_000_000)).max_rows == 6250


def test_a_model_that_takes_no_time_is_limited_all_the_same() -> None:
    assert sizes_of({1: 0.0, 32: 0.0}, Settings(timeout_ms=1000)).max_rows < 10_000_000


def test_json_is_limited_by_its_numbers() -> None:
    wide, narrow = (sizes_of({1: 1, 32: 2}, Settings(), [elements]) for elements in (1000, 4))
    assert wide.max_json_rows < narrow.max_json_rows < narrow.max_rows


def test_pieces_are_as_small_as_rows_are_hardly_dearer_for_it() -> None:
    # Each row costs its own time: a piece is one row. On a GPU all of a batch cost the same: a whole batch.
    assert sizes_of({1: 5000, 32: 150_000}, Settings()).piece_rows == 1
    assert sizes_of({1: 5000, 32: 5100}, Settings()).piece_rows == 32
    # So quick that others can wait for a whole batch.
    assert sizes_of({1: 20, 16: 50, 32: 60}, Settings()).piece_rows == 32

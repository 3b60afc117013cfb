"""Collects concurrent calls into batches.

An idle engine starts on whatever arrived in one turn of the event loop: no added delay. While it computes,
calls gather, and the next batch takes them all, up to the limit. Batches of small models run on the loop
itself (handing over to a thread costs more than computing them), others on a thread of their own. Pieces of
large calls and batches of others take turns.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from serving.pod.call import Call
from serving.pod.call_queue import CallQueue
from serving.pod.execution import Executed, Executor
from serving.pod.large import LargeCalls, Piece
from serving.pod.patience import Patience

log = logging.getLogger("slipway.pod")

# How long batches in a row may keep the loop from reading.
_TURN_SECONDS = 0.002
# And pieces of large calls, which are for callers that can wait.
_PIECES_SECONDS = 0.0006


class Deliver(Protocol):
    """What becomes of batches; `serving.pod.model` implements it."""

    def batch_done(self, executed: list[Executed], rows: int, seconds: float) -> None:
        """A batch took `seconds`; every call in `executed` gets its outcome."""
        ...

    def calls_died(self, calls: list[Call]) -> None:
        """These were abandoned or expired before the engine saw them."""
        ...


class Batcher:
    """All methods run on the event loop's thread. `patience` decides whether a busy engine waits for more."""

    def __init__(
        self,
        executor: Executor,
        calls: CallQueue,
        patience: Patience,
        deliver: Deliver,
        *,
        max_rows: int,
        inline: bool,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        large: LargeCalls | None = None,
    ) -> None:
        self._large, self._was_piece = large, False
        self._executor, self._queue, self._patience, self._deliver = executor, calls, patience, deliver
        self._max_rows, self._loop, self._clock = max_rows, loop, clock
        self._is_scheduled = False
        self._is_busy = False
        self._waiting: asyncio.TimerHandle | None = None
        self._inline = inline
        self._turn_ended = 0.0
        self._thread: ComputeThread | None = None
        self._computing_since: float | None = None

    @property
    def computing_seconds(self) -> float:
        """For how long the engine's thread has had its present batch."""
        return 0.0 if self._computing_since is None else self._clock() - self._computing_since

    @property
    def queued_rows(self) -> int:
        return self._queue.rows + (self._large.rows if self._large is not None else 0)

    @property
    def _has_work(self) -> bool:
        return bool(self._queue) or bool(self._large)

    def submit_large(self, call: Call) -> None:
        """Queue a call that is computed in pieces. Raises what `LargeCalls.push` raises."""
        assert self._large is not None
        self._large.push(call)
        if not self._is_scheduled and not self._is_busy:
            self._is_scheduled = True
            self._loop.call_soon(self._start_batch)

    def submit(self, call: Call) -> list[Call]:
        """Queue a call and return those shed for it. Raises `Unavailable` when the queue is full."""
        shed = self._queue.push(call)
        if not self._is_scheduled and not self._is_busy:
            self._is_scheduled = True
            self._loop.call_soon(self._start_batch)
        elif self._waiting is not None and self._queue.rows >= self._max_rows:
            self._waiting.cancel()
            self._start_batch()
        return shed

    async def settle(self) -> None:
        """Before the first call: each thread that will execute batches makes itself ready.

        Also the compute thread of a model whose short batches run on the loop: its long ones do not.
        """
        settled = self._loop.create_future()

        def done() -> None:
            if not settled.done():
                settled.set_result(None)

        self._compute_thread().do(self._executor.settle, lambda: self._loop.call_soon_threadsafe(done))
        await settled
        if self._inline:
            self._executor.settle()

    def close(self) -> None:
        """End the compute thread after what it has."""
        if self._thread is not None:
            self._thread.close()

    def _start_batch(self) -> None:
        # A timer that waited for a fuller batch kept the engine busy until now. What is submitted while
        # answers are handed out belongs to this turn or is scheduled after it.
        self._is_scheduled, self._is_busy, self._waiting = True, False, None
        began = now = self._clock()
        end = began + min(began - self._turn_ended, _TURN_SECONDS)
        # At least one batch, and as much time for the engine as the loop had for reading and refusing: else
        # an overloaded pod would mostly refuse.
        try:
            while self._one_batch(now) and self._has_work and (now := self._clock()) < end:
                pass
        finally:
            # Also after a batch that could not be delivered: what waits behind it must not wait for ever.
            self._turn_ended = self._clock()
            self._is_scheduled = self._has_work and not self._is_busy
            if self._is_scheduled:
                self._loop.call_soon(self._start_batch)

    def _one_batch(self, now: float) -> bool:
        """Whether another may follow in this turn: not where a thread computes this one."""
        if self._large and (not self._was_piece or not self._queue):
            self._was_piece = True
            return self._one_piece(self._large, now)
        self._was_piece = False
        calls, dead = self._queue.take(self._max_rows, now)
        try:
            if calls:
                for call in calls:
                    call.started = now
                if self._inline and _rows(calls) <= self._max_rows:
                    self._run_inline(calls, now)
                else:
                    self._run_elsewhere(calls)
        finally:
            if dead:
                # Last, because what waited for their answers may be submitted anew at once.
                self._deliver.calls_died(dead)
        return not self._is_busy

    def _one_piece(self, large: LargeCalls, now: float) -> bool:
        """Or more, where they are quick. Then who has come meanwhile is heard before the next."""
        end = now + _PIECES_SECONDS
        while now < end:
            piece = large.next(now)
            if piece is None:
                return True
            if not (self._inline and piece.is_short):
                self._run_elsewhere([piece])
                return False
            executed, began = self._executor.execute([piece]), now
            now = self._clock()
            large.computed(piece, executed, now - began)
        return False

    def _run_elsewhere(self, calls: list[Call]) -> None:
        thread = self._compute_thread()
        self._is_busy, self._computing_since = True, self._clock()
        thread.put(calls)

    def _compute_thread(self) -> ComputeThread:
        if self._thread is None:
            self._thread = ComputeThread(self._executor.execute, self._finished_elsewhere, self._clock)
        return self._thread

    def _run_inline(self, calls: list[Call], now: float) -> None:
        executed = self._executor.execute(calls)
        self._deliver.batch_done(executed, _rows(calls), self._clock() - now)

    def _finished_elsewhere(self, calls: Sequence[Call], executed: list[Executed], seconds: float) -> None:
        # Called on the compute thread.
        try:
            self._loop.call_soon_threadsafe(self._finish, calls, executed, seconds)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
            # The pod has ended meanwhile, and nobody waits.

    def _finish(self, calls: Sequence[Call], executed: list[Executed], seconds: float) -> None:
        self._is_busy, self._computing_since = False, None
        if isinstance(calls[0], Piece):
            self._finish_piece(calls[0], executed, seconds)
            return
        if not self._has_work:
            self._patience.idle()
            self._deliver.batch_done(executed, _rows(calls), seconds)
            return
        rows = _rows(calls)
        wait = self._patience.seconds(self._queue.rows, rows, self._clock())
        if wait > 0 and self._queue.rows < self._max_rows:
            self._is_busy = True
            self._waiting = self._loop.call_later(wait, self._start_batch)
            self._deliver.batch_done(executed, rows, seconds)
        else:
            # The engine first: it computes the next batch while the answers of this one are written.
            try:
                self._start_batch()
            finally:
                self._deliver.batch_done(executed, rows, seconds)

    def _finish_piece(self, piece: Piece, executed: list[Executed], seconds: float) -> None:
        assert self._large is not None
        try:
            self._large.computed(piece, executed, seconds)
        finally:
            if self._has_work and not self._is_scheduled and not self._is_busy:
                self._start_batch()


def _rows(calls: Sequence[Call]) -> int:
    return sum([call.rows for call in calls])


class ComputeThread:
    """Takes batches in order. A daemon: a hung engine must not keep a drained pod alive."""

    def __init__(
        self,
        execute: Callable[[Sequence[Call]], list[Executed]],
        done: Callable[[Sequence[Call], list[Executed], float], None],
        clock: Callable[[], float],
    ) -> None:
        self._execute, self._done, self._clock = execute, done, clock
        self._batches: queue.SimpleQueue[Sequence[Call] | Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="compute", daemon=True).start()

    def put(self, calls: Sequence[Call]) -> None:
        self._batches.put(calls)

    def do(self, work: Callable[[], None], done: Callable[[], object]) -> None:
        """Work of another kind, in its turn; `done` is called after it, also where it failed."""

        def both() -> None:
            try:
                work()
            except Exception:
                log.exception("the compute thread failed")
            finally:
                done()

        self._batches.put(both)

    def close(self) -> None:
        self._batches.put(None)

    def _work(self) -> None:
        while (calls := self._batches.get()) is not None:
            if callable(calls):
                calls()
                continue
            start = self._clock()
            executed = self._execute(calls)
            self._done(calls, executed, self._clock() - start)

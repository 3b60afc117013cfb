"""Collects concurrent calls into batches.

An idle engine starts on whatever arrived in one turn of the event loop: no added delay. While it computes,
calls gather, and the next batch takes them all, up to the limit. Batches of small models run on the loop
itself (handing over to a thread costs more than computing them), others on a thread of their own.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence

from model_store.errors import SlipwayError
from serving.runtime.call import Call, Outputs
from serving.runtime.errors import Abandoned, ModelFault, Unavailable
from serving.runtime.execution import Executed, Executor
from serving.runtime.manifest import Settings

log = logging.getLogger("slipway.pod")

Execute = Callable[[Sequence[Call]], list[Executed]]


class Batcher:
    """All methods run on the event loop's thread. `on_batch` is told (calls, rows, compute seconds)."""

    def __init__(
        self,
        executor: Executor,
        settings: Settings,
        *,
        is_batched: bool,
        inline: bool,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        on_batch: Callable[[int, int, float], None],
    ) -> None:
        self._executor, self._loop, self._clock, self._on_batch = executor, loop, clock, on_batch
        self._max_rows = settings.max_batch_size if is_batched else 1
        self._max_queued = settings.max_queue_rows
        self._queue: deque[Call] = deque()
        self._queued_rows = 0
        self._is_scheduled = False
        self._is_busy = False
        self._thread = None if inline else _ComputeThread(executor.execute, self._finished_elsewhere, clock)

    @property
    def queued_rows(self) -> int:
        return self._queued_rows

    @property
    def is_idle(self) -> bool:
        return not self._is_busy and not self._queue

    def submit(self, call: Call) -> None:
        """Queue a call; its `answered` or `failed` follows. Raises `Unavailable` when the queue is full."""
        if self._queued_rows >= self._max_queued:
            raise Unavailable("the queue is full", remedy="try again later, or add replicas")
        self._queue.append(call)
        self._queued_rows += call.rows
        if not self._is_scheduled and not self._is_busy:
            self._is_scheduled = True
            self._loop.call_soon(self._start_batch)

    def close(self) -> None:
        """End the compute thread after what it has."""
        if self._thread is not None:
            self._thread.close()

    def _start_batch(self) -> None:
        self._is_scheduled = False
        calls = self._take()
        if not calls:
            return
        now = self._clock()
        for call in calls:
            call.started = now
        if self._thread is not None:
            self._is_busy = True
            self._thread.put(calls)
            return
        executed = self._executor.execute(calls)
        self._on_batch(len(calls), sum(call.rows for call in calls), self._clock() - now)
        if self._queue:
            self._is_scheduled = True
            self._loop.call_soon(self._start_batch)
        deliver(executed)

    def _take(self) -> list[Call]:
        """The oldest call and those after it that can share its batch."""
        calls: list[Call] = []
        rows, kept = 0, deque[Call]()
        while self._queue:
            call = self._queue.popleft()
            if call.is_abandoned:
                self._queued_rows -= call.rows
                call.failed(Abandoned())
            elif calls and (call.key != calls[0].key or rows + call.rows > self._max_rows):
                kept.append(call)
                if rows >= self._max_rows or len(kept) >= self._max_rows:
                    break
            else:
                calls.append(call)
                rows += call.rows
                self._queued_rows -= call.rows
                if rows >= self._max_rows:
                    break
        self._queue.extendleft(reversed(kept))
        return calls

    def _finished_elsewhere(self, calls: Sequence[Call], executed: list[Executed], seconds: float) -> None:
        # Called on the compute thread.
        self._loop.call_soon_threadsafe(self._finish, calls, executed, seconds)

    def _finish(self, calls: Sequence[Call], executed: list[Executed], seconds: float) -> None:
        self._is_busy = False
        self._on_batch(len(calls), sum(call.rows for call in calls), seconds)
        # The engine first: it computes the next batch while the answers of this one are written.
        if self._queue:
            self._start_batch()
        deliver(executed)


def deliver(executed: list[Executed]) -> None:
    """Give every call its own rows, or its error."""
    for part in executed:
        outcome = part.outcome
        if isinstance(outcome, SlipwayError):
            for call in part.calls:
                call.failed(outcome)
        else:
            _hand_out(part.calls, outcome)


def _hand_out(calls: Sequence[Call], outputs: Outputs) -> None:
    first = 0
    for call in calls:
        try:
            call.answered(outputs, first)
        except Exception as error:
            # One answer that cannot be written must not keep its neighbours from theirs.
            log.exception("an answer could not be written")
            call.failed(ModelFault(f"the answer could not be written: {error}"))
        first += call.rows


class _ComputeThread:
    """Takes batches in order. A daemon: a hung engine must not keep a drained pod alive."""

    def __init__(
        self,
        execute: Execute,
        done: Callable[[Sequence[Call], list[Executed], float], None],
        clock: Callable[[], float],
    ) -> None:
        self._execute, self._done, self._clock = execute, done, clock
        self._batches: queue.SimpleQueue[Sequence[Call] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="compute", daemon=True)
        self._thread.start()

    def put(self, calls: Sequence[Call]) -> None:
        self._batches.put(calls)

    def close(self) -> None:
        self._batches.put(None)

    def _work(self) -> None:
        while (calls := self._batches.get()) is not None:
            start = self._clock()
            executed = self._execute(calls)
            self._done(calls, executed, self._clock() - start)

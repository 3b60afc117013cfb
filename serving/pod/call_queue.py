"""Waiting calls in three priorities. High goes first; every eighth batch starts from the low end instead, so
that low is slow under load but never starved."""

from __future__ import annotations

from collections import deque

from model_store.engines.errors import Unavailable
from serving.pod.call import Call
from serving.pod.urgency import Priority

_LOW_FIRST_EVERY = 8
# How many calls of other shapes a batch looks past for ones that fit it.
_LOOK_PAST = 256


class CallQueue:
    """`rows` is what waits in all. Bounded by `max_rows`: a full queue sheds its lowest priority first."""

    __slots__ = ("_levels", "_max_rows", "_turn", "rows")

    def __init__(self, max_rows: int) -> None:
        self._levels: tuple[deque[Call], ...] = tuple(deque() for _ in Priority)
        self._max_rows = max_rows
        self._turn = 0
        self.rows = 0

    def __bool__(self) -> bool:
        return any(self._levels)

    def push(self, call: Call) -> list[Call]:
        """Queue a call and return those shed for it. Raises `Unavailable` when nothing can make room."""
        shed: list[Call] = []
        if self.rows + call.rows > self._max_rows and self.rows:
            shed = self._make_room(call)
        self._levels[call.priority].append(call)
        self.rows += call.rows
        return shed

    def take(self, max_rows: int, now: float) -> tuple[list[Call], list[Call]]:
        """The next batch (up to `max_rows`, one oversized call alone), and the dead calls found on the way.

        Dead is expired or abandoned: the caller fails those, the engine never sees them.
        """
        batch: list[Call] = []
        dead: list[Call] = []
        rows = 0
        self._turn += 1
        levels = self._levels if self._turn % _LOW_FIRST_EVERY else self._levels[::-1]
        for level in levels:
            if level and rows < max_rows:
                rows = self._fill(level, batch, dead, rows, max_rows, now)
        return batch, dead

    def _fill(
        self, level: deque[Call], batch: list[Call], dead: list[Call], rows: int, max_rows: int, now: float
    ) -> int:
        passed: list[Call] = []
        while level and rows < max_rows and len(passed) < _LOOK_PAST:
            call = level.popleft()
            if call.deadline <= now or call.is_abandoned:
                dead.append(call)
                self.rows -= call.rows
            elif batch and (call.key != batch[0].key or rows + call.rows > max_rows):
                passed.append(call)
            else:
                batch.append(call)
                rows += call.rows
                self.rows -= call.rows
        level.extendleft(reversed(passed))
        return rows

    def _make_room(self, call: Call) -> list[Call]:
        shed: list[Call] = []
        for level in reversed(self._levels[call.priority + 1 :]):
            while level and self.rows + call.rows > self._max_rows:
                shed.append(level.pop())
                self.rows -= shed[-1].rows
        if self.rows + call.rows > self._max_rows and not shed:
            raise Unavailable("the queue is full", remedy="try again later, or add replicas")
        return shed

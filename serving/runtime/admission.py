"""How many requests a model may have in flight: a limit that follows latency.

Additive increase, multiplicative decrease on the time calls wait for the engine. The target is one full
batch: a call that arrives waits at most for the batch before its own, so an accepted call takes at most
about twice the time of a full batch, however many are sent. Source: TCP's AIMD (Chiu and Jain, 1989)
applied to concurrency, as Netflix's concurrency-limits does.
"""

from __future__ import annotations

from serving.runtime.urgency import Priority

_SAMPLES = 64
_DECREASE = 0.8
# What part of the limit each priority may use. High may exceed it: it goes first in the queue, so it hardly
# waits behind what is there, and a short stall must not refuse what is most wanted.
_SHARES = {Priority.HIGH: 2.0, Priority.NORMAL: 1.0, Priority.LOW: 0.7}


class LatencyLimit:
    """`floor` and `ceiling` are requests; `target_seconds` the waiting time to hold."""

    __slots__ = ("_ceiling", "_floor", "_in_flight", "_limits", "_target", "_waits", "limit")

    def __init__(self, *, floor: int, ceiling: int, target_seconds: float) -> None:
        self._floor, self._ceiling, self._target = floor, max(ceiling, floor), target_seconds
        self._waits: list[float] = []
        self._in_flight = 0
        self._set(min(float(4 * floor), float(self._ceiling)))

    def admits(self, in_flight: int, priority: int) -> bool:
        """Whether one more may start."""
        if in_flight > self._in_flight:
            self._in_flight = in_flight
        return in_flight < self._limits[priority]

    def is_near(self, in_flight: int) -> bool:
        """Whether the lowest priority is not admitted any more."""
        return in_flight >= self._limits[Priority.LOW]

    def observe(self, waited_seconds: float) -> None:
        """A call reached the engine after waiting this long."""
        self._waits.append(waited_seconds)
        if len(self._waits) >= _SAMPLES:
            self._adjust()

    def _adjust(self) -> None:
        nearly_all = sorted(self._waits)[int(0.9 * len(self._waits))]
        if nearly_all > self._target:
            self._set(max(self._floor, self.limit * _DECREASE))
        elif self._in_flight > 0.5 * self.limit:
            self._set(min(self._ceiling, self.limit + 1 + self.limit**0.5 / 4))
        self._waits.clear()
        self._in_flight = 0

    def _set(self, limit: float) -> None:
        self.limit = limit
        # Even a low-priority call is admitted when nothing else is there.
        self._limits = [max(1.0, limit * _SHARES[priority]) for priority in Priority]

"""How many requests a model may have in flight: a limit that follows latency.

Additive increase, multiplicative decrease on the time calls wait for the engine. The target is one full
batch: a call that arrives waits at most for the batch before its own, so an accepted call takes at most
about twice the time of a full batch, however many are sent. Source: TCP's AIMD (Chiu and Jain, 1989)
applied to concurrency, as Netflix's concurrency-limits does.

The limit is for a queue that stands. One that was empty a moment ago is a burst, or what came while the
machine stalled: it drains by itself, and refusing it helps nobody. Source: CoDel (Nichols and Jacobson, 2012,
https://queue.acm.org/detail.cfm?id=2209336), as Facebook's servers use it ("Fail at Scale", 2015). "A moment"
is counted in answers, not seconds: while the machine stalls time passes and nothing drains.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.pod.urgency import Priority

_SAMPLES = 64
_DECREASE = 0.8
# A queue stands that was not empty while the engine had time for so many times what may wait.
_STANDS = 4
# So many times what may wait is taken meanwhile: the start of an overload must not fill the whole queue.
_BURST = 2
# What reading and answering a row takes, however quick the model.
_LEAST_ROW_SECONDS = 0.00005
# What part of the limit each priority may use, counting what goes before it. High may exceed it: a short
# stall must not refuse what is most wanted.
_SHARES = {Priority.HIGH: 2.0, Priority.NORMAL: 1.0, Priority.LOW: 0.7}


class ConcurrencyLimit:
    """`floor` and `ceiling` are requests; `target_seconds` the waiting time to hold; `row_seconds` what a row
    takes at best."""

    __slots__ = (
        "_burst_limits", "_ceiling", "_floor", "_in_flight", "_limits", "_since_empty", "_stands_after",
        "_target", "_waits", "limit",
    )  # fmt: skip

    def __init__(self, *, floor: int, ceiling: int, target_seconds: float, row_seconds: float) -> None:
        self._floor, self._ceiling, self._target = floor, max(ceiling, floor), target_seconds
        self._waits: list[float] = []
        self._in_flight = 0
        waiting = target_seconds / max(row_seconds, _LEAST_ROW_SECONDS)
        self._stands_after = _STANDS * waiting
        self._since_empty = 0
        self._burst_limits = _by_priority(min(max(floor, _BURST * waiting), self._ceiling))
        self._set(min(float(4 * floor), float(self._ceiling)))

    def admits(self, in_flight: Sequence[int], priority: int) -> bool:
        """Whether one more may start, with so many in flight by priority. Those that wait behind it do not
        count against it."""
        total = sum(in_flight)
        if total > self._in_flight:
            self._in_flight = total
        elif total == 0:
            self._since_empty = 0
        if self._since_empty < self._stands_after and total < self._burst_limits[priority]:
            return True
        return sum(in_flight[: priority + 1]) < self._limits[priority]

    def is_near(self, in_flight: Sequence[int]) -> bool:
        """Whether the lowest priority is not admitted any more."""
        limits = self._burst_limits if self._since_empty < self._stands_after else self._limits
        return sum(in_flight) >= limits[Priority.LOW]

    def observe(self, waited_seconds: float) -> None:
        """A call reached the engine after waiting this long."""
        self._since_empty += 1
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
        self._limits = _by_priority(limit)


def _by_priority(limit: float) -> list[float]:
    # Even a low-priority call is admitted when nothing else is there.
    return [max(1.0, limit * _SHARES[priority]) for priority in Priority]

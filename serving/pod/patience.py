"""Whether a busy engine should wait a little for a fuller batch.

Waiting pays when a batch costs almost the same whatever its size and many rows are about to come back: the
callers just answered. Then running the few that are queued would keep the many waiting for a whole batch
time. Where each row costs its own time (most models on a CPU), waiting never pays and is never done.
"""

from __future__ import annotations


class Patience:
    """`max_delay_seconds` is the spec's; costs are seconds as warmup measured them.

    `fixed_seconds`: what a batch costs before its first row; `row_seconds`: what each row adds.
    """

    __slots__ = ("_fixed", "_last", "_max_delay", "_rate", "_row")

    def __init__(self, max_delay_seconds: float, fixed_seconds: float, row_seconds: float) -> None:
        self._max_delay, self._fixed, self._row = max_delay_seconds, max(fixed_seconds, 0.0), row_seconds
        self._rate = 0.0
        self._last = 0.0

    def idle(self) -> None:
        """The queue ran empty: what was learnt about the rate of arrivals is over."""
        self._last = 0.0

    def seconds(self, queued_rows: int, finished_rows: int, now: float) -> float:
        """How long to wait before the next batch: 0, or long enough to gain more than it costs."""
        if self._last:
            rate = finished_rows / max(now - self._last, 1e-6)
            self._rate = rate if not self._rate else 0.7 * self._rate + 0.3 * rate
        self._last = now
        batch_seconds = self._fixed + self._row * queued_rows
        wait = min(self._max_delay, batch_seconds / 4)
        expected = self._rate * (wait + batch_seconds) - queued_rows
        saves_most = self._fixed > self._row * queued_rows
        return wait if saves_most and expected >= queued_rows else 0.0

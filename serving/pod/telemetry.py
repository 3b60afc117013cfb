"""What the pod counts, and its Prometheus text.

Plain integers and lists, touched only on the event loop: prometheus_client's locks cost more than a small
model. Its names and text format are kept (https://prometheus.io/docs/instrumenting/exposition_formats/).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from time import time

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Histogram:
    """Counts per bucket (not cumulative until printed) and the sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def quantile(self, share: float) -> float:
        """Upper bound of the bucket that holds this quantile; 0 when nothing was seen."""
        target, seen = share * sum(self.counts), 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            if seen and seen >= target:
                return bound
        return 0.0


class LookUps:
    """What became of looking into one level of the caches."""

    __slots__ = ("hits", "misses")

    def __init__(self) -> None:
        self.hits = self.misses = 0


class ModelMetrics:
    """Of one model version, however often it is loaded: counters only ever grow.

    `codes` counts finished requests by HTTP status, `caches` look-ups by level, for levels there have been.
    """

    def __init__(self) -> None:
        self.codes: dict[int, int] = {200: 0}
        self.caches: dict[str, LookUps] = {}
        self.shared_in_flight = self.fallbacks = 0
        self.total = Histogram(SECONDS)
        self.queued = Histogram(SECONDS)
        self.computed = Histogram(SECONDS)
        self.batch_rows = Histogram(ROWS)
        self.rows = 0
        # A batch's seconds count for each of its calls.
        self.computed_calls, self.computed_call_seconds = 0, 0.0
        self.failed_seconds = 0.0
        # Of the wall's clock.
        self.last_batch_at = 0.0
        self.dropped: dict[str, int] = {}

    def batch(self, calls: int, rows: int, seconds: float) -> None:
        """One batch was computed."""
        self.computed.observe(seconds)
        self.batch_rows.observe(rows)
        self.rows += rows
        self.computed_calls += calls
        self.computed_call_seconds += calls * seconds
        self.last_batch_at = time()

    def level(self, name: str) -> LookUps:
        """The counts of one level of the caches, which go on where the model before left them."""
        return self.caches.setdefault(name, LookUps())

    def finished(self, code: int) -> None:
        self.codes[code] = self.codes.get(code, 0) + 1

    def drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


class Exposition:
    """Builds the text, one family at a time."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, words: str, samples: Iterable[tuple[str, float]]) -> None:
        """`samples` are (labels without braces, value)."""
        self._lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]
        for labels, value in samples:
            self._lines.append(f"{name}{{{labels}}} {value}" if labels else f"{name} {value}")

    def histograms(self, name: str, words: str, found: Iterable[tuple[str, Histogram]]) -> None:
        self._lines += [f"# HELP {name} {words}", f"# TYPE {name} histogram"]
        for labels, histogram in found:
            self._lines += _histogram_lines(name, labels, histogram)

    def text(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()


def _histogram_lines(name: str, labels: str, histogram: Histogram) -> Iterator[str]:
    seen = 0
    for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
        seen += count
        le = bound if isinstance(bound, str) else f"{bound:g}"
        yield f'{name}_bucket{{{labels},le="{le}"}} {seen}'
    yield f"{name}_sum{{{labels}}} {histogram.total:.9g}"
    yield f"{name}_count{{{labels}}} {seen}"


def label(value: str) -> str:
    """A label value with what the text format reserves escaped."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

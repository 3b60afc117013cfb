"""How fast and how large a candidate is, beside the fp32 ONNX model in the same seconds.

Absolute times on a shared machine drift by tens of percent. Candidate and baseline therefore take turns in
short blocks, and the ratio is the median over pairs of neighbouring blocks: what disturbs one disturbs both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_store.arrays import Rows, count_rows
from model_store.release_spec import Gates
from model_store.types import Artifact, Check

Run = Callable[[dict[str, np.ndarray[Any, Any]]], Any]
Clock = Callable[[], float]

BLOCK_CALLS = 25
MIN_BLOCKS = 6
# Of full batches only the median is read, and a transformer takes a tenth of a second for each.
LEAST_BATCHES = 3
LONGEST_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Profile:
    """One thread of this machine. Latencies of one row, in ms; throughput of full batches, in rows/s.

    Ratios are candidate over baseline (fp32 ONNX): of p50 latency (below 1 is faster), and of throughput.
    `latency_interval`: within what the latency ratio lies (95 %, as far as the blocks agree with each other).
    `max_batch_size`: rows in a full batch. `seconds`: how long measuring took. `gpu_memory_bytes`: what the
    GPU has less since the candidate answered full batches on it, 0 where no GPU is counted.
    """

    p50_ms: float
    p99_ms: float
    baseline_p50_ms: float
    latency_ratio: float
    latency_interval: tuple[float, float]
    rows_per_second: float
    throughput_ratio: float
    max_batch_size: int
    size_bytes: int
    seconds: float
    gpu_memory_bytes: int = 0


def measure(
    candidate: Run,
    baseline: Run,
    rows: Rows,
    *,
    baseline_rows: Rows | None = None,
    artifact: Artifact,
    max_batch_size: int,
    single: int = 1,
    budget_seconds: float = 1.5,
    clock: Clock = time.perf_counter,
) -> Profile:
    """Time both models on real rows for about `budget_seconds`, two thirds of it on single rows.

    `candidate` and `baseline` take feeds by input name, `baseline_rows` where the second takes the same rows
    in another form. Fewer rows than a full batch are repeated. `single` is the smallest batch, more than one
    row only for a model that takes no other.
    """
    started = clock()
    share, forms = budget_seconds / 3, (rows, rows if baseline_rows is None else baseline_rows)
    one, whole = ([_feeds(form, size) for form in forms] for size in (single, max_batch_size))
    singles = _take_turns(candidate, baseline, one, 2 * share, clock)
    batches = _take_turns(candidate, baseline, whole, share, clock, least_calls=LEAST_BATCHES)
    own, other = (np.concatenate(side) * 1e3 for side in singles)
    per_batch = float(np.median(np.concatenate(batches[0])))
    return Profile(
        p50_ms=float(np.percentile(own, 50)),
        p99_ms=float(np.percentile(own, 99)),
        baseline_p50_ms=float(np.percentile(other, 50)),
        latency_ratio=_ratio(singles),
        latency_interval=_interval(_ratios(singles)),
        rows_per_second=max_batch_size / per_batch,
        throughput_ratio=1 / _ratio(batches),
        max_batch_size=max_batch_size,
        size_bytes=artifact.size_bytes,
        seconds=clock() - started,
    )


def judge_profile(profile: Profile, gates: Gates) -> tuple[Check, ...]:
    """A check for every latency and size limit the spec sets."""
    p50, base = profile.p50_ms, profile.baseline_p50_ms
    limits = (
        ("latency p99 ms", profile.p99_ms, gates.latency.max_p99_ms, "one row at a time"),
        (
            "latency ratio",
            profile.latency_ratio,
            gates.latency.max_ratio,
            f"p50 {p50:.4f} ms against {base:.4f} ms of the fp32 model, side by side",
        ),
    )
    checks = tuple(
        Check(name, observed, limit, observed <= limit, detail, direction="at_most")
        for name, observed, limit, detail in limits
        if limit is not None
    )
    return checks + judge_size(profile.size_bytes, gates)


def judge_size(size_bytes: int, gates: Gates) -> tuple[Check, ...]:
    """A check if the spec limits the size of the model file."""
    if gates.size is None:
        return ()
    observed, limit = size_bytes / 1e6, gates.size.max_mb
    return (Check("size MB", observed, limit, observed <= limit, "of the model file", direction="at_most"),)


Times = list[np.ndarray[Any, Any]]


def _take_turns(
    candidate: Run,
    baseline: Run,
    feeds: Sequence[list[dict[str, Any]]],
    budget_seconds: float,
    clock: Clock,
    *,
    least_calls: int = BLOCK_CALLS,
) -> tuple[Times, Times]:
    """Seconds per call, in blocks, of `feeds` for each; the k-th block of one ran just before or after the
    k-th of the other.

    A block has `BLOCK_CALLS` calls, or as few as `least_calls` where more would overrun the budget, and fewer
    yet where that would take longer than `LONGEST_SECONDS`: fp16 on a CPU takes seconds a row.
    """
    warm = [
        _block(run, fed, clock, LEAST_BATCHES) for run, fed in zip((candidate, baseline), feeds, strict=True)
    ]
    of_each_block = MIN_BLOCKS * sum(float(np.median(times)) for times in warm)
    least = min(least_calls, max(LEAST_BATCHES, int(LONGEST_SECONDS / of_each_block)))
    calls = int(np.clip(budget_seconds / of_each_block, least, BLOCK_CALLS))
    own: Times = []
    other: Times = []
    ends = clock() + budget_seconds
    while clock() < ends or len(own) < MIN_BLOCKS:
        # Who goes first alternates: the second finds warmer caches.
        turns = ((candidate, feeds[0], own), (baseline, feeds[1], other))
        for run, fed, times in turns[:: 1 if len(own) % 2 == 0 else -1]:
            times.append(_block(run, fed, clock, calls))
    return own, other


def _block(run: Run, feeds: list[dict[str, Any]], clock: Clock, calls: int) -> np.ndarray[Any, Any]:
    times = np.empty(calls)
    for index in range(calls):
        feed = feeds[index % len(feeds)]
        begin = clock()
        run(feed)
        times[index] = clock() - begin
    return times


def _ratio(sides: tuple[Times, Times]) -> float:
    return float(np.median(_ratios(sides)))


def _ratios(sides: tuple[Times, Times]) -> list[float]:
    """Of each pair of neighbouring blocks."""
    return [float(np.median(own) / np.median(other)) for own, other in zip(*sides, strict=True)]


def _interval(ratios: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Of their median, by order statistics: it lies outside the k-th smallest and largest no more often than
    2 P(Binomial(n, 1/2) < k), whatever the distribution (Conover, Practical Nonparametric Statistics, 3.2).
    """
    count, outside, k = len(ratios), 0.0, 0
    while (outside := outside + 2 * math.comb(count, k) / 2**count) <= 1 - confidence:
        k += 1
    ordered, place = sorted(ratios), max(k - 1, 0)
    return ordered[place], ordered[count - 1 - place]


def _feeds(rows: Rows, size: int) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Up to one block of distinct feeds of `size` rows."""
    count = count_rows(rows)
    starts = [start * size % count for start in range(min(BLOCK_CALLS, -(-count // size)))]
    indices = [np.arange(start, start + size) % count for start in starts]
    return [{name: np.ascontiguousarray(array[index]) for name, array in rows.items()} for index in indices]

"""Both arms over time: failed and slow answers with their confidence bands, and the candidate's share.

As `serving.analysis.plot` draws it: counts begin anew with every step, as the verdicts do, and the bands hold
at every look at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

import numpy as np

from serving.analysis.intervals import confidence_sequence
from serving.analysis.policy import AnalysisPolicy
from serving.rollout.record import Record
from serving.types import Arm, Counts

MOST_POINTS = 240
# Before so many requests a band says nothing but that nothing is known.
ENOUGH_REQUESTS = 10

Numbers = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Band:
    """Rates in percent at each of the series' times; None where too few requests were answered."""

    rate: Numbers
    low: Numbers
    high: Numbers


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of an arm's attempts, at each of the series' times since the release started (cumulative).

    `answered`: 2xx. `refused`: 4xx by the model, of well-formed requests. `malformed`: any other 4xx.
    `failed`: 5xx, timeouts, resets; repeated on stable where the spec allows it.
    """

    answered: tuple[int, ...]
    refused: tuple[int, ...]
    malformed: tuple[int, ...]
    failed: tuple[int, ...]

    @classmethod
    def of(cls, counts: Sequence[Counts]) -> Outcomes:
        return cls(
            answered=tuple(each.answered for each in counts),
            refused=tuple(each.refused for each in counts),
            malformed=tuple(each.malformed for each in counts),
            failed=tuple(each.errors for each in counts),
        )


@dataclass(frozen=True, slots=True)
class Series:
    """`seconds` since `started_at`, one for each entry of everything else. `share` in percent.

    `failed` and `slow` are bands by arm, `outcomes` counts by arm. Limits in percent: what the verdict allows
    the candidate.
    """

    release_id: str
    started_at: datetime | None
    seconds: tuple[float, ...]
    step: tuple[int, ...]
    share: tuple[float, ...]
    failed: dict[str, Band]
    slow: dict[str, Band]
    failed_limit: float
    slow_limit: float
    latency_objective_ms: float
    requests: dict[str, int]
    outcomes: dict[str, Outcomes]


def series_of(release_id: str, records: Iterable[Record], policy: AnalysisPolicy) -> Series:
    """From the guard's records, oldest first. Thinned to what a chart can show, keeping each step's ends."""
    every = list(records)
    points = _thinned(every)
    start = every[0].at if every else None
    return Series(
        release_id=release_id,
        started_at=start,
        seconds=tuple(round((p.at - start).total_seconds(), 2) if start else 0.0 for p in points),
        step=tuple(point.place for point in points),
        share=tuple(round(100 * point.share, 2) for point in points),
        failed={arm.value: _bands(points, arm, "errors") for arm in Arm},
        slow={arm.value: _bands(points, arm, "slow") for arm in Arm},
        failed_limit=100 * policy.max_error_rate,
        slow_limit=100 * policy.max_slow_share,
        latency_objective_ms=policy.latency_objective_ms,
        requests={arm.value: _counts(points[-1], arm).requests if points else 0 for arm in Arm},
        outcomes={arm.value: Outcomes.of([_counts(point, arm) for point in points]) for arm in Arm},
    )


def _thinned(records: Sequence[Record]) -> list[Record]:
    every = max(1, -(-len(records) // MOST_POINTS))
    keep = set(range(0, len(records), every)) | {len(records) - 1}
    for number in range(1, len(records)):
        if records[number].place != records[number - 1].place:
            keep |= {number - 1, number}
    return [records[number] for number in sorted(keep) if number >= 0]


def _bands(points: Sequence[Record], arm: Arm, kind: str) -> Band:
    rate: list[float | None] = []
    low: list[float | None] = []
    high: list[float | None] = []
    before: Counts | None = None
    for _, part in groupby(points, key=lambda point: point.place):
        counts = [_counts(point, arm) for point in part]
        first = before or Counts(0, 0, 0, 0.0)
        requests = np.array([each.requests - first.requests for each in counts], dtype=float)
        bad = np.array([getattr(each, kind) - getattr(first, kind) for each in counts], dtype=float)
        below, above = confidence_sequence(requests, np.minimum(bad, requests))
        for n, e, lower, upper in zip(requests, bad, below, above, strict=True):
            is_known = n >= ENOUGH_REQUESTS
            rate.append(round(100 * float(e / n), 3) if is_known else None)
            low.append(round(100 * float(lower), 3) if is_known else None)
            high.append(round(100 * float(upper), 3) if is_known else None)
        before = counts[-1]
    return Band(tuple(rate), tuple(low), tuple(high))


def _counts(point: Record, arm: Arm) -> Counts:
    return point.stable if arm is Arm.STABLE else point.candidate

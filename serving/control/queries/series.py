"""Both arms over time: failed and slow answers with their confidence bands, what was answered, and how fast.

What the bands are of is counted since the release began, as the verdict counts it, and they hold at every
look at once; so the newest is what the verdict says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from serving.control.analysis.evidence import Array, confidence_sequence
from serving.control.analysis.policy import AnalysisPolicy
from serving.control.queries.flow import (
    Flow,
    Latency,
    Numbers,
    StepFlow,
    are_refusals_counted,
    counts_of,
    edges_of,
    flow_of,
    latency_of,
    steps_of,
)
from serving.control.rollout.record import Record
from serving.types import Arm, Counts

MOST_POINTS = 240
# Before so many requests a rate would jump about; unless it is as high as that many failures make it.
ENOUGH_REQUESTS = 10
ENOUGH_FAILURES = 3

Events = Sequence[tuple[datetime, str, str, float]]


@dataclass(frozen=True, slots=True)
class Band:
    """Rates in percent at each of the series' times; None where too few requests were answered."""

    rate: Numbers
    low: Numbers
    high: Numbers


@dataclass(frozen=True, slots=True)
class AnswerCounts:
    """What became of an arm's attempts, at each of the series' times since the release started (cumulative).

    `answered`: 2xx. `refused`: 4xx by the model, of well-formed requests. `malformed`: any other 4xx.
    `failed`: 5xx, timeouts, resets; repeated on stable where the spec allows it.
    """

    answered: tuple[int, ...]
    refused: tuple[int, ...]
    malformed: tuple[int, ...]
    failed: tuple[int, ...]

    @classmethod
    def of(cls, counts: Sequence[Counts]) -> AnswerCounts:
        return cls(
            answered=tuple(each.answered for each in counts),
            refused=tuple(each.refused for each in counts),
            malformed=tuple(each.malformed for each in counts),
            failed=tuple(each.errors for each in counts),
        )


@dataclass(frozen=True, slots=True)
class Series:
    """`seconds` since `started_at`, one for each entry of `step`, `share` and the bands. `share` in percent.

    `failed` and `slow` are bands by arm, of all that was answered since the release began, as the verdict
    counts; `outcomes` are counts by arm. Limits in percent: what the verdict allows the candidate.

    `flow` is of the intervals that end at `intervals`, the first of which begins at 0. `shifts` are (when,
    the candidate's percent from then on), `ended`: when it was rolled back, None if it was not.
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
    outcomes: dict[str, AnswerCounts]
    intervals: tuple[float, ...]
    flow: dict[str, Flow]
    latency: dict[str, Latency]
    steps: tuple[StepFlow, ...]
    shifts: tuple[tuple[float, float], ...]
    ended: float | None

    @property
    def end(self) -> float:
        """Seconds that there is something to draw of."""
        return max([0.0, *self.seconds[-1:], *([self.ended] if self.ended else [])])


def series_of(
    release_id: str, records: Iterable[Record], policy: AnalysisPolicy, events: Events = ()
) -> Series:
    """From the controller's records, oldest first, and the rollout's events (when, what, why, weight).

    Thinned to what a chart can show, keeping each step's ends.
    """
    every = list(records)
    points = _thinned(every)
    start = every[0].at if every else None
    edges, with_refusals = edges_of(every), are_refusals_counted(every)
    return Series(
        release_id=release_id,
        started_at=start,
        seconds=tuple(_since(start, point.at) for point in points),
        step=tuple(point.place for point in points),
        share=tuple(round(100 * point.share, 2) for point in points),
        failed={arm.value: _bands(points, arm, "errors") for arm in Arm},
        slow={arm.value: _bands(points, arm, "slow") for arm in Arm},
        failed_limit=100 * policy.max_error_rate,
        slow_limit=100 * policy.max_slow_share,
        latency_objective_ms=policy.latency_objective_ms,
        requests={arm.value: counts_of(points[-1], arm).requests if points else 0 for arm in Arm},
        outcomes={arm.value: AnswerCounts.of([counts_of(point, arm) for point in points]) for arm in Arm},
        intervals=tuple(_since(start, edge.at) for edge in edges[1:]),
        flow={arm.value: flow_of(edges, arm, with_refusals=with_refusals) for arm in Arm},
        latency={arm.value: latency_of(every, arm) for arm in Arm},
        steps=steps_of(every),
        shifts=tuple((_since(start, at), weight) for at, kind, _, weight in events if kind == "shift"),
        ended=next((_since(start, at) for at, kind, _, _ in events if kind == "rolled back"), None),
    )


def _since(start: datetime | None, at: datetime) -> float:
    return round(max((at - start).total_seconds(), 0.0), 2) if start else 0.0


def _thinned(records: Sequence[Record]) -> list[Record]:
    every = max(1, -(-len(records) // MOST_POINTS))
    keep = set(range(0, len(records), every)) | {len(records) - 1}
    for number in range(1, len(records)):
        if records[number].place != records[number - 1].place:
            keep |= {number - 1, number}
    return [records[number] for number in sorted(keep) if number >= 0]


def _bands(points: Sequence[Record], arm: Arm, kind: str) -> Band:
    counts = [counts_of(point, arm) for point in points]
    requests = np.array([each.requests for each in counts], dtype=float)
    bad = np.minimum(np.array([getattr(each, kind) for each in counts], dtype=float), requests)
    below, above = confidence_sequence(requests, bad)
    is_known = (requests >= ENOUGH_REQUESTS) | (bad >= ENOUGH_FAILURES)
    rates = np.divide(bad, requests, out=np.zeros_like(bad), where=requests > 0)
    return Band(*(_percents(values, is_known) for values in (rates, below, above)))


def _percents(shares: Array, is_known: NDArray[np.bool_]) -> Numbers:
    return tuple(
        round(100 * float(share), 3) if known else None for share, known in zip(shares, is_known, strict=True)
    )

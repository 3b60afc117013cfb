"""What each arm answered, interval by interval and step by step: how much, how well, and how fast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from serving.control.rollout.record import Record
from serving.metrics.latency import Buckets, between, quantile_ms
from serving.types import Arm, Counts

# So many intervals on a chart at most. Shorter ones than these seconds would show chance, not change.
MOST_INTERVALS = 60
SHORTEST_SECONDS = 2.0
# Envoy gathers its distributions so often.
SHORTEST_LATENCY_SECONDS = 5.0

Numbers = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Flow:
    """One arm, by interval. The four kinds of answers are percents of those of the interval.

    None: there was none, or nobody counted refusals then.
    """

    per_second: Numbers
    answered: Numbers
    refused: Numbers
    malformed: Numbers
    failed: Numbers


@dataclass(frozen=True, slots=True)
class Latency:
    """One arm's times in ms, each of the answers since the entry before."""

    seconds: tuple[float, ...]
    p50_ms: Numbers
    p99_ms: Numbers


@dataclass(frozen=True, slots=True)
class ArmInStep:
    """What an arm did in one step, in whole requests. None: not recorded."""

    requests: int
    per_second: float
    answered: int | None
    refused: int | None
    malformed: int | None
    failed: int
    slow: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class StepFlow:
    """A step of the plan, `weight` percent; `place` 0 is before the first."""

    place: int
    weight: float
    begins: float
    ends: float
    arms: dict[str, ArmInStep]


def counts_of(record: Record, arm: Arm) -> Counts:
    """Cumulative, since the release began."""
    return record.stable if arm is Arm.STABLE else record.candidate


def are_refusals_counted(records: Sequence[Record]) -> bool:
    """Whether the controller that wrote these told refusals from answers."""
    stands = [stand for record in records[-1:] for stand in record.raw.values()]
    return bool(stands) and all(stand.refused is not None for stand in stands)


def edges_of(records: Sequence[Record]) -> tuple[Record, ...]:
    """The records that intervals begin and end with: at every change of the step, where it is long enough."""
    if len(records) < 2:
        return ()
    shortest = max(SHORTEST_SECONDS, _span(records) / MOST_INTERVALS)
    edges = [records[0]]
    for before, record in pairwise(records):
        is_other = before.place != record.place
        if is_other and _seconds(edges[-1], before) >= SHORTEST_SECONDS / 2:
            edges.append(before)
        if _seconds(edges[-1], record) >= shortest or record is records[-1]:
            edges.append(record)
    return tuple(edges)


def flow_of(edges: Sequence[Record], arm: Arm, *, with_refusals: bool) -> Flow:
    """Between each two of the edges."""
    spans = [(_seconds(a, b), counts_of(b, arm) - counts_of(a, arm)) for a, b in pairwise(edges)]
    return Flow(
        per_second=tuple(
            round(max(more.requests, 0) / seconds, 3) if seconds else None for seconds, more in spans
        ),
        answered=_shares(spans, "answered", with_refusals),
        refused=_shares(spans, "refused", with_refusals),
        malformed=_shares(spans, "malformed", with_refusals),
        failed=_shares(spans, "errors", True),
    )


def latency_of(records: Sequence[Record], arm: Arm) -> Latency:
    """Wherever the records know more than before."""
    known = [record for record in records if record.latency]
    edges = list(_apart(known, max(SHORTEST_LATENCY_SECONDS, _span(records) / MOST_INTERVALS) - 0.5))
    pieces = [
        between(_buckets(before, arm), _buckets(record, arm)) for before, record in pairwise([None, *edges])
    ]
    return Latency(
        seconds=tuple(round(_seconds(records[0], record), 2) for record in edges),
        p50_ms=tuple(_figure(quantile_ms(piece, 0.5)) for piece in pieces),
        p99_ms=tuple(_figure(quantile_ms(piece, 0.99)) for piece in pieces),
    )


def steps_of(records: Sequence[Record]) -> tuple[StepFlow, ...]:
    """Each step, from the last record before it to its own last."""
    found: list[StepFlow] = []
    before: Record | None = None
    timed: Record | None = None
    with_refusals = are_refusals_counted(records)
    for place, group in groupby(records, key=lambda record: record.place):
        part = list(group)
        first, last = before or part[0], part[-1]
        times = timed, next((record for record in reversed(part) if record.latency), timed)
        found.append(
            StepFlow(
                place=place,
                weight=round(100 * last.share, 2),
                begins=round(_seconds(records[0], first), 2),
                ends=round(_seconds(records[0], last), 2),
                arms={arm.value: _in_step((first, last), times, arm, with_refusals) for arm in Arm},
            )
        )
        before, timed = last, times[1]
    return tuple(found)


def _in_step(
    ends: tuple[Record, Record], times: tuple[Record | None, Record | None], arm: Arm, with_refusals: bool
) -> ArmInStep:
    more = counts_of(ends[1], arm) - counts_of(ends[0], arm)
    took = between(_buckets(times[0], arm), _buckets(times[1], arm))
    seconds = _seconds(*ends)
    return ArmInStep(
        requests=more.requests,
        per_second=round(more.requests / seconds, 3) if seconds else 0.0,
        answered=more.answered if with_refusals else None,
        refused=more.refused if with_refusals else None,
        malformed=more.malformed if with_refusals else None,
        failed=more.errors,
        slow=more.slow,
        p50_ms=_figure(quantile_ms(took, 0.5)),
        p99_ms=_figure(quantile_ms(took, 0.99)),
    )


def _shares(spans: Sequence[tuple[float, Counts]], kind: str, is_known: bool) -> Numbers:
    return tuple(
        round(100 * min(getattr(more, kind) / more.requests, 1.0), 3)
        if is_known and more.requests > 0
        else None
        for _, more in spans
    )


def _apart(records: Iterable[Record], seconds: float) -> Iterator[Record]:
    """At least so many seconds from one to the next."""
    last: Record | None = None
    for record in records:
        if last is None or _seconds(last, record) >= seconds:
            last = record
            yield record


def _buckets(record: Record | None, arm: Arm) -> Buckets:
    if record is None or record.latency is None:
        return {}
    return record.latency[0] if arm is Arm.STABLE else record.latency[1]


def _figure(ms: float | None) -> float | None:
    return None if ms is None else float(f"{ms:.3g}")


def _span(records: Sequence[Record]) -> float:
    return _seconds(records[0], records[-1]) if records else 0.0


def _seconds(begin: Record, end: Record) -> float:
    return (end.at - begin.at).total_seconds()

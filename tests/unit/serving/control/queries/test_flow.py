"""Both arms over time: how much, how well and how fast, from the controller's records."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.page.home import PLAN
from serving.control.queries.series import Series, series_of
from serving.control.rollout.record import EndpointCounts, Record
from serving.metrics.latency import Buckets, bucket_of
from serving.types import NO_COUNTS, Counts, Endpoint, Verdict

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
POD = Endpoint("127.0.0.1", 8500)


def record(
    second: float,
    *,
    place: int = 1,
    share: float = 0.05,
    stable: Counts = NO_COUNTS,
    candidate: Counts = NO_COUNTS,
    latency: tuple[Buckets, Buckets] | None = None,
    is_old: bool = False,
) -> Record:
    at = NOON + timedelta(seconds=second)
    stand = EndpointCounts(0, 0, 0) if is_old else EndpointCounts(0, 0, 0, 0, 0)
    verdict = Verdict.of([], at=at)
    counts = {"stable": stable, "candidate": candidate, "raw": {POD: stand}, "verdict": verdict}
    return Record(at, second, place, share, True, True, second, **counts, latency=latency)  # type: ignore[arg-type]


def drawn(*records: Record, ended: float | None = None) -> Series:
    events = [(NOON + timedelta(seconds=0), "shift", "step 1 of 4", 5.0)]
    if ended is not None:
        events.append((NOON + timedelta(seconds=ended), "rolled back", "it failed", 0.0))
    return series_of("x", records, PLAN.policy, events)


def test_the_rate_and_the_kinds_of_answers_are_those_of_each_interval() -> None:
    series = drawn(
        record(0),
        record(2, candidate=Counts(10, 0, 0, 2)),
        record(4, candidate=Counts(30, 5, 0, 4, refused=4, malformed=1)),
    )
    flow = series.flow["candidate"]
    assert series.intervals == (2, 4)
    assert flow.per_second == (5, 10)
    assert (flow.failed, flow.refused, flow.malformed, flow.answered) == ((0, 25), (0, 20), (0, 5), (100, 50))
    assert series.flow["stable"].failed == (None, None), "no request, so no share of them"


def test_records_of_before_refusals_were_counted_say_so_and_are_no_zeros() -> None:
    series = drawn(record(0, is_old=True), record(2, candidate=Counts(10, 1, 0, 2), is_old=True))
    flow, did = series.flow["candidate"], series.steps[0].arms["candidate"]
    assert (flow.failed, flow.refused, flow.answered) == ((10,), (None,), (None,))
    assert (did.requests, did.failed, did.refused, did.answered, did.p99_ms) == (10, 1, None, None, None)


def test_an_interval_never_reaches_over_a_step() -> None:
    seconds = [record(n, place=1 if n < 5 else 2, stable=Counts(10 * n, 0, 0, n)) for n in range(9)]
    assert 4.0 in drawn(*seconds).intervals


def test_thousands_of_records_come_to_some_dozens_of_intervals() -> None:
    seconds = [record(n, stable=Counts(10 * n, 0, 0, n)) for n in range(7200)]
    series = drawn(*seconds)
    assert 50 <= len(series.intervals) <= 61
    assert set(series.flow["stable"].per_second) == {10}


def test_latency_is_that_of_the_answers_since_the_entry_before() -> None:
    quick, slow = {bucket_of(4): 100}, {bucket_of(4): 100, bucket_of(90): 100}
    series = drawn(
        record(0),
        record(5, latency=(quick, {})),
        record(6),
        record(11, latency=(slow, {bucket_of(7): 3})),
    )
    stable, candidate = series.latency["stable"], series.latency["candidate"]
    assert stable.seconds == (5, 11)
    assert stable.p50_ms == (pytest.approx(4, rel=0.1), pytest.approx(90, rel=0.1))
    assert candidate.p99_ms == (None, pytest.approx(7, rel=0.1))
    assert series.steps[0].arms["stable"].p99_ms == pytest.approx(90, rel=0.1)


def test_the_last_point_is_what_the_verdict_says_however_few_the_requests() -> None:
    series = drawn(record(0), record(4, stable=Counts(599, 0, 0, 4), candidate=Counts(9, 5, 0, 4)), ended=4.4)
    assert series.failed["candidate"].rate[-1] == pytest.approx(100 * 5 / 9, abs=0.01)
    assert (series.requests["candidate"], series.outcomes["candidate"].failed[-1]) == (9, 5)
    assert (series.ended, series.end) == (4.4, 4.4)
    assert series.shifts == ((0, 5),)


def test_counts_go_on_over_the_steps_as_the_verdict_counts_them() -> None:
    series = drawn(
        record(0),
        record(9, candidate=Counts(100, 1, 0, 9)),
        record(10, place=2, share=0.25, candidate=Counts(100, 1, 0, 10)),
        record(19, place=2, share=0.25, candidate=Counts(200, 10, 0, 19)),
    )
    assert series.failed["candidate"].rate[-1] == 5
    assert [(step.weight, step.arms["candidate"].failed) for step in series.steps] == [(5, 1), (25, 9)]


def test_nothing_seen_is_nothing_drawn() -> None:
    series = drawn()
    assert (series.seconds, series.intervals, series.steps, series.end) == ((), (), (), 0)

"""Times are kept as counts by bucket: spans add up, and quantiles are right within a few percent."""

from __future__ import annotations

import random

import pytest

from serving.metrics.latency import Buckets, Latencies, added, between, bucket_of, quantile_ms
from serving.types import Endpoint

BLUE, GREEN = Endpoint("127.0.0.1", 8501), Endpoint("127.0.0.1", 8502)


def counted(times_ms: list[float]) -> Buckets:
    return added(*({bucket_of(ms): 1} for ms in times_ms))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_quantile_is_right_within_a_few_percent(share: float) -> None:
    chance = random.Random(1)
    times = sorted(chance.lognormvariate(2, 0.8) for _ in range(20_000))
    found = quantile_ms(counted(times), share)
    assert found == pytest.approx(times[int(share * len(times))], rel=0.06)


def test_nothing_has_no_quantile() -> None:
    assert quantile_ms({}, 0.99) is None


def test_what_was_counted_between_two_looks_is_their_difference() -> None:
    before, more = counted([1.0, 4.0, 4.0]), counted([4.0, 900.0])
    assert between(before, added(before, more)) == more


def test_a_proxy_that_restarted_counts_from_nothing() -> None:
    assert between(counted([5.0, 5.0]), counted([5.0])) == counted([5.0])


def test_what_an_address_had_before_this_release_is_not_counted() -> None:
    of_another = counted([900.0])
    first = Latencies().after((BLUE,), (GREEN,), {BLUE: of_another, GREEN: {}})
    assert (first.stable, first.candidate) == ({}, {})
    now = {BLUE: added(of_another, counted([4.0])), GREEN: counted([7.0])}
    second = first.after((BLUE,), (GREEN,), now)
    assert (second.stable, second.candidate) == (counted([4.0]), counted([7.0]))
    assert second.after((BLUE,), (GREEN,), now).stable == second.stable, "nothing is counted twice"

"""Priorities, deadlines, bounds and the latency limit."""

from __future__ import annotations

from typing import Any

import pytest

from model_store.engines.errors import Refused, Unavailable
from serving.pod.admission import ConcurrencyLimit
from serving.pod.call_queue import CallQueue
from serving.pod.patience import Patience
from serving.pod.urgency import Priority, read_priority, read_timeout
from tests.unit.serving.pod.calls import RememberedCall

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW


def calls(count: int, priority: int = NORMAL) -> list[RememberedCall]:
    return [RememberedCall([n, priority], priority=priority) for n in range(count)]


def test_high_goes_first_and_equals_keep_their_order() -> None:
    queue = CallQueue(1000)
    low, normal, high = calls(3, LOW), calls(3, NORMAL), calls(3, HIGH)
    for call in [*low, *normal, *high]:
        queue.push(call)
    assert queue.take(9, now=0)[0] == [*high, *normal, *low]


def test_low_is_slow_but_never_starved() -> None:
    queue = CallQueue(10_000)
    lonely = RememberedCall([0, 0], priority=LOW)
    queue.push(lonely)
    batches = []
    for _ in range(8):
        for call in calls(8, HIGH):
            queue.push(call)
        batches.append(queue.take(4, now=0)[0])
    assert any(lonely in batch for batch in batches)
    assert sum(lonely in batch or batch[0].priority == HIGH for batch in batches) == 8


def test_an_expired_or_abandoned_call_never_reaches_the_engine() -> None:
    queue = CallQueue(1000)
    expired, alive, left = (
        RememberedCall([1, 1], deadline=5),
        RememberedCall([2, 2], deadline=9),
        RememberedCall([3, 3]),
    )
    left.left = True
    for call in (expired, alive, left):
        queue.push(call)
    assert queue.take(10, now=6) == ([alive], [expired, left])
    assert queue.rows == 0


def test_a_full_queue_refuses_equals_and_sheds_lower_for_higher() -> None:
    queue = CallQueue(4)
    waiting = calls(4, LOW)
    for call in waiting:
        queue.push(call)
    with pytest.raises(Unavailable):
        queue.push(RememberedCall([9, 9], priority=LOW))
    assert queue.push(RememberedCall([9, 9], priority=HIGH)) == [waiting[-1]], "the newest low one gives way"
    assert queue.rows == 4


def test_a_batch_holds_only_calls_of_one_shape_and_the_others_keep_their_place() -> None:
    queue = CallQueue(1000)
    short, long = calls(3), calls(3)
    for call in long:
        call.key = "long"
    for pair in zip(short, long, strict=True):
        for call in pair:
            queue.push(call)
    assert queue.take(10, now=0)[0] == short
    assert queue.take(10, now=0)[0] == long


def test_a_call_larger_than_a_batch_goes_alone() -> None:
    queue = CallQueue(1000)
    large = RememberedCall(*[[n, n] for n in range(20)])
    small = RememberedCall([1, 1])
    queue.push(large)
    queue.push(small)
    assert queue.take(8, now=0)[0] == [large]
    assert queue.take(8, now=0)[0] == [small]


def run_limit(limit: ConcurrencyLimit, seconds_per_request: float, offered: int, rounds: int) -> float:
    """A server that answers one request at a time, and as many callers as the limit lets in."""
    for _ in range(rounds):
        admitted = 0
        # Never empty: a place in the queue is taken as soon as it is free.
        while admitted < offered and limit.admits([0, admitted or 1, 0], NORMAL):
            admitted += 1
        for place in range(admitted):
            limit.observe(place * seconds_per_request)
    return limit.limit


def test_the_limit_settles_where_waiting_meets_its_target() -> None:
    limit = ConcurrencyLimit(floor=4, ceiling=10_000, target_seconds=0.1, row_seconds=0.001)
    settled = run_limit(limit, seconds_per_request=0.001, offered=10_000, rounds=200)
    assert 60 <= settled <= 180


def test_the_limit_grows_back_when_the_server_recovers() -> None:
    limit = ConcurrencyLimit(floor=4, ceiling=10_000, target_seconds=0.1, row_seconds=0.001)
    low = run_limit(limit, seconds_per_request=0.02, offered=10_000, rounds=100)
    assert low <= 12
    assert run_limit(limit, seconds_per_request=0.0005, offered=10_000, rounds=300) > 5 * low


def test_overload_sheds_low_first_and_high_last() -> None:
    limit = ConcurrencyLimit(floor=10, ceiling=10, target_seconds=1, row_seconds=0.1)
    assert admitted(limit, [8, 0, 0]) == [True, True, False]
    assert admitted(limit, [12, 0, 0]) == [True, False, False]
    assert admitted(limit, [20, 0, 0]) == [False, False, False]
    assert admitted(limit, [0, 0, 0]) == [True, True, True]
    assert admitted(limit, [0, 0, 50]) == [True, True, False], "what waits behind it holds nothing up"


def admitted(limit: ConcurrencyLimit, in_flight: list[int]) -> list[bool]:
    return [limit.admits(in_flight, priority) for priority in (HIGH, NORMAL, LOW)]


def test_a_burst_is_taken_and_a_queue_that_stands_is_not() -> None:
    limit = ConcurrencyLimit(floor=4, ceiling=100, target_seconds=0.01, row_seconds=0.001)
    run_limit(limit, seconds_per_request=1, offered=100, rounds=100)
    assert not limit.admits([0, 15, 0], NORMAL)
    assert limit.is_near([0, 15, 0])
    assert limit.admits([0, 0, 0], NORMAL), "empty"
    assert limit.admits([0, 15, 0], NORMAL), "what came during a stall"
    assert not limit.is_near([0, 13, 0])
    assert not limit.admits([0, 20, 0], NORMAL), "twice what may wait, and no more"
    for _ in range(40):
        limit.observe(1)
    assert not limit.admits([0, 15, 0], NORMAL), "as much was answered, and it is not empty"


def test_waiting_for_a_fuller_batch_pays_only_where_batches_cost_the_same() -> None:
    flat = Patience(0.005, fixed_seconds=0.04, row_seconds=0.0001)
    steep = Patience(0.005, fixed_seconds=0.0001, row_seconds=0.01)
    for patience in (flat, steep):
        patience.seconds(1, 32, now=1.0)
    assert flat.seconds(1, 31, now=1.04) > 0, "31 callers were just answered and will be back"
    assert flat.seconds(30, 31, now=1.08) == 0, "most are here already"
    assert steep.seconds(1, 31, now=1.04) == 0


def test_priority_and_timeout_are_read_from_header_or_parameter() -> None:
    assert read_priority({b"x-slipway-priority": b"HIGH"}, {}) is HIGH
    assert read_priority({}, {"priority": "low"}) is LOW
    assert [read_priority({}, {"priority": n}) for n in (0, 1, 2, 3, 99)] == [NORMAL, HIGH, NORMAL, LOW, LOW]
    assert read_timeout({b"x-slipway-timeout-ms": b"250"}, {}, default=1) == 0.25
    assert read_timeout({b"x-envoy-expected-rq-timeout-ms": b"0"}, {}, default=1) == 1
    assert read_timeout({}, {"timeout": 2_000}, default=1) == 0.002
    assert read_timeout({b"x-slipway-timeout-ms": b"60000"}, {}, default=1) == 1, (
        "never more than the model's"
    )


Mistake = tuple[dict[bytes, bytes], dict[str, Any]]


def test_a_priority_or_timeout_that_means_nothing_is_refused() -> None:
    priorities: list[Mistake] = [
        ({b"x-slipway-priority": b"urgent"}, {}),
        ({}, {"priority": -1}),
        ({}, {"priority": []}),
    ]
    for headers, parameters in priorities:
        with pytest.raises(Refused):
            read_priority(headers, parameters)
    timeouts: list[Mistake] = [
        ({b"x-slipway-timeout-ms": b"soon"}, {}),
        ({}, {"timeout": -1}),
        ({}, {"timeout": "1"}),
    ]
    for headers, parameters in timeouts:
        with pytest.raises(Refused):
            read_timeout(headers, parameters, 1)

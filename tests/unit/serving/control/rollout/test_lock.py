from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.control.rollout.lock import Claim, LockOutcome, LockState, ReleaseLock
from serving.ledger.memory import MemoryLedger

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def claim(minute: int) -> Claim:
    return Claim(NOON + timedelta(minutes=minute), f"fraud-v{minute}-{minute}")


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


@pytest.fixture
def lock(ledger: MemoryLedger) -> ReleaseLock:
    return ReleaseLock(ledger)


def test_the_first_release_holds_the_lock_however_often_it_asks(lock: ReleaseLock) -> None:
    assert [lock.acquire("fraud", claim(1)) for _ in range(3)] == [LockOutcome.HELD] * 3


def test_a_second_release_waits_and_then_holds(lock: ReleaseLock) -> None:
    lock.acquire("fraud", claim(1))
    assert lock.acquire("fraud", claim(2)) is LockOutcome.WAITING
    lock.release("fraud", claim(1).release_id)
    assert lock.acquire("fraud", claim(2)) is LockOutcome.HELD


def test_a_newer_request_supersedes_a_waiting_one(lock: ReleaseLock) -> None:
    lock.acquire("fraud", claim(1))
    lock.acquire("fraud", claim(2))
    assert lock.acquire("fraud", claim(3)) is LockOutcome.WAITING
    assert lock.acquire("fraud", claim(2)) is LockOutcome.SUPERSEDED
    lock.release("fraud", claim(1).release_id)
    assert lock.acquire("fraud", claim(2)) is LockOutcome.SUPERSEDED
    assert lock.acquire("fraud", claim(3)) is LockOutcome.HELD


def test_a_request_older_than_the_one_rolling_out_is_superseded(lock: ReleaseLock) -> None:
    lock.acquire("fraud", claim(5))
    assert lock.acquire("fraud", claim(4)) is LockOutcome.SUPERSEDED
    assert lock.read("fraud") == LockState(holder=claim(5))


def test_a_newer_request_may_take_a_free_lock_before_the_waiting_one(lock: ReleaseLock) -> None:
    lock.acquire("fraud", claim(1))
    lock.acquire("fraud", claim(2))
    lock.release("fraud", claim(1).release_id)
    assert lock.acquire("fraud", claim(3)) is LockOutcome.HELD
    assert lock.acquire("fraud", claim(2)) is LockOutcome.SUPERSEDED


def test_releasing_twice_or_what_one_never_had_is_no_error(lock: ReleaseLock) -> None:
    lock.acquire("fraud", claim(1))
    for _ in range(2):
        lock.release("fraud", claim(9).release_id)
        lock.release("fraud", claim(1).release_id)
    assert lock.read("fraud") == LockState()


def test_models_do_not_wait_for_each_other(lock: ReleaseLock) -> None:
    assert lock.acquire("fraud", claim(1)) is lock.acquire("credit", claim(2)) is LockOutcome.HELD


def test_the_lock_outlives_the_process_that_took_it(lock: ReleaseLock, ledger: MemoryLedger) -> None:
    lock.acquire("fraud", claim(1))
    assert ReleaseLock(ledger).acquire("fraud", claim(2)) is LockOutcome.WAITING


def test_of_many_at_once_one_holds_and_the_newest_waits(lock: ReleaseLock) -> None:
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            standings = list(pool.map(lambda n: lock.acquire("fraud", claim(n)), range(12)))
    state = lock.read("fraud")
    assert standings.count(LockOutcome.HELD) == 1
    assert state.holder
    assert state.waiting in (claim(11), None)
    assert claim(11) in (state.holder, state.waiting)


@settings(max_examples=60, deadline=None)
@given(moves=st.lists(st.tuples(st.sampled_from(["ask", "end"]), st.integers(0, 5)), max_size=40))
def test_two_never_hold_it_at_once(moves: list[tuple[str, int]]) -> None:
    lock = ReleaseLock(MemoryLedger())
    holding: set[int] = set()
    for move, number in moves:
        if move == "end":
            lock.release("fraud", claim(number).release_id)
            holding.discard(number)
        elif lock.acquire("fraud", claim(number)) is LockOutcome.HELD:
            holding.add(number)
        assert len(holding) <= 1

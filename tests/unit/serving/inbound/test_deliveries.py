"""The same delivery twice, also after a restart and from two processes at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from serving.inbound.deliveries import Deliveries
from serving.inbound.pace import Pace
from serving.inbound.signature import Stamp

NOW = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)


def stamp(at: datetime = NOW) -> Stamp:
    return Stamp(str(uuid4()), at)


def test_a_delivery_is_taken_once_also_after_a_restart(tmp_path: Path) -> None:
    once = stamp()
    assert Deliveries(tmp_path).take(once, now=NOW)
    assert not Deliveries(tmp_path).take(once, now=NOW + timedelta(minutes=4))
    assert Deliveries(tmp_path).take(stamp(), now=NOW)


def test_of_many_takers_at_once_exactly_one_gets_it(tmp_path: Path) -> None:
    once, takers = stamp(), [Deliveries(tmp_path) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda one: one.take(once, now=NOW), takers * 5))
    assert taken.count(True) == 1


def test_what_is_too_old_to_be_believed_is_forgotten_and_the_rest_is_not(tmp_path: Path) -> None:
    # The last second of a folder, so that the next one has begun before it is too old.
    made = NOW + timedelta(hours=1, minutes=9, seconds=59)
    old, recent = stamp(), stamp(made)
    deliveries = Deliveries(tmp_path)
    deliveries.take(old, now=NOW)
    deliveries.take(recent, now=made)
    assert len(list(tmp_path.glob("*/*"))) == 1
    assert not deliveries.take(recent, now=made + timedelta(minutes=5))


def test_a_burst_is_taken_and_then_a_steady_rate() -> None:
    pace = Pace(burst=3, per_second=2)
    assert [pace.allows(at=10.0) for _ in range(4)] == [True, True, True, False]
    assert [pace.allows(at=10.5) for _ in range(2)] == [True, False]
    assert pace.allows(at=9.0) is False, "a clock that goes back gives nothing away"
    assert [pace.allows(at=100.0) for _ in range(4)] == [True, True, True, False]

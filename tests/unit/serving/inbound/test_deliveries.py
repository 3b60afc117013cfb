"""The same delivery twice, also after a restart and from two processes at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import uuid4

from serving.inbound.deliveries import Deliveries, Stamp
from serving.inbound.pace import Pace
from serving.ledger.memory import MemoryLedger
from serving.ledger.rows import DeliveryRow

NOW = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)


def stamp(at: datetime = NOW) -> Stamp:
    return Stamp(str(uuid4()), at)


def test_a_delivery_is_taken_once_also_after_a_restart() -> None:
    ledger, once = MemoryLedger(), stamp()
    assert Deliveries(ledger).take(once)
    assert not Deliveries(ledger).take(once)
    assert Deliveries(ledger).take(stamp())


def test_of_many_takers_at_once_exactly_one_gets_it() -> None:
    ledger, once = MemoryLedger(), stamp()
    takers = [Deliveries(ledger) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda one: one.take(once), takers * 5))
    assert taken.count(True) == 1


def test_what_came_of_a_delivery_is_noted_and_of_none_nothing() -> None:
    ledger, once = MemoryLedger(), stamp()
    deliveries = Deliveries(ledger)
    deliveries.note(once, "of one that nobody took")
    assert ledger.find(DeliveryRow) == []
    deliveries.take(once)
    deliveries.note(once, "asked Airflow")
    assert [one.words for one in ledger.find(DeliveryRow)] == ["asked Airflow"]


def test_a_burst_is_taken_and_then_a_steady_rate() -> None:
    pace = Pace(burst=3, per_second=2)
    assert [pace.allows(at=10.0) for _ in range(4)] == [True, True, True, False]
    assert [pace.allows(at=10.5) for _ in range(2)] == [True, False]
    assert pace.allows(at=9.0) is False, "a clock that goes back gives nothing away"
    assert [pace.allows(at=100.0) for _ in range(4)] == [True, True, True, False]

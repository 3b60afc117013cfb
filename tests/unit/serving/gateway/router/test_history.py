"""Any moment's routes can be told afterwards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from serving.gateway.router.history import LedgerHistory
from serving.gateway.router.kept import LedgerRouter
from serving.gateway.router.memory import MemoryRouter
from serving.ledger.memory import MemoryLedger
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, Slot, TrafficSplit

START = datetime(2026, 11, 21, 12, tzinfo=UTC)


def deployment(version: int, slot: Slot) -> Deployment:
    return Deployment(DeploymentRef("m", slot, f"b{version}", version), (Endpoint("127.0.0.1", 9),))


def test_every_write_of_a_route_is_a_change_in_its_history_and_a_move_of_pods_is_none() -> None:
    ticks = iter(range(10))
    ledger = MemoryLedger()
    router = LedgerRouter(ledger, MemoryRouter(), now=lambda: START + timedelta(seconds=next(ticks)))
    first, second = deployment(1, Slot.BLUE), deployment(2, Slot.GREEN)
    router.write("m", ALL_STABLE, stable=first, candidate=None, at=0)
    router.write("m", TrafficSplit(80, 20), stable=first, candidate=second, at=1)
    router.move(Deployment(second.ref, (Endpoint("127.0.0.1", 10),)))

    changes, offset = LedgerHistory(ledger).read()

    assert [change.revision for change in changes] == [1, 2]
    assert [(arm.version, arm.weight) for arm in changes[1].arms] == [(1, 80), (2, 20)]
    assert changes[1].at == START + timedelta(seconds=1)
    assert LedgerHistory(ledger).read(offset=offset) == ([], offset)
    router.write("m", ALL_STABLE, stable=first, candidate=second, at=2)
    router.settle()
    assert [change.revision for change in LedgerHistory(ledger).read(offset=offset)[0]] == [3]

"""Who asks for what changed misses nothing, and hears of nothing twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from serving.control.releases import ChangedReleases
from serving.ledger.memory import MemoryLedger
from serving.ledger.rows import ReleaseChangeRow, ReleaseRecord

AT = datetime(2026, 12, 1, tzinfo=UTC)
ASKED = ReleaseRecord(id="fraud-v1", model="fraud", version=1, requested_at=AT, requested_by="ann")


def change(number: int) -> ReleaseChangeRow:
    return ReleaseChangeRow(number=number, kind="Release", id=f"r{number}", model="fraud", at=AT)


class Told(MemoryLedger):
    """Changes as they come to be seen."""

    def __init__(self, *numbers: int) -> None:
        super().__init__()
        self.numbers = list(numbers)

    def find(self, kind, /, *, after=None, newest=None, **_):  # type: ignore[no-untyped-def]
        there = [change(number) for number in sorted(self.numbers) if number > (after or 0)]
        return there[::-1][:newest] if newest else there


def test_what_is_saved_is_told_once() -> None:
    ledger = MemoryLedger()
    (row,) = ledger.save(ASKED)
    changes = ChangedReleases(ledger)
    assert changes.take() == []
    assert isinstance(row, ReleaseRecord)
    ledger.save(replace(row, status="promoted"))
    assert [each.id for each in changes.take()] == ["fraud-v1"]
    assert changes.take() == []


def test_one_whose_number_is_lower_and_which_is_seen_later_is_told() -> None:
    told = Told(1)
    changes = ChangedReleases(told)
    changes.take()
    told.numbers += [3]
    assert [each.number for each in changes.take()] == [3]
    told.numbers += [2]
    assert [each.number for each in changes.take()] == [2]
    told.numbers += [200]
    assert [each.number for each in changes.take()] == [200]

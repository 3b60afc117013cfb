"""The audit trail keeps what people did, whole and in order, in a ledger on a disk that may be full."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from model_store.unwritable import DiskFull, Unwritable
from serving.control import audit
from serving.control.audit import AuditEntry, AuditTrail, take_late
from serving.ledger.base import Unreachable
from serving.ledger.memory import MemoryLedger
from serving.ledger.opening import open_ledger
from serving.ledger.rows import AuditRow
from serving.ledger.sql import SqlLedger
from tests.mounts import SmallDisk, small_disk

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def entry(action: str = "release", *, days: float = 0, model: str = "fraud", **more: str) -> AuditEntry:
    return AuditEntry(NOW + timedelta(days=days), "ada", action, model, 3, **more)  # type: ignore[arg-type]


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    return AuditTrail(MemoryLedger(), tmp_path / "late")


def test_an_entry_comes_back_as_it_was_written(trail: AuditTrail) -> None:
    written = AuditEntry(NOW, "ädá", "freeze", None, None, "r-1", '=1+1 <b> "\n', {"via": "api"})
    trail.append(written)
    assert trail.entries() == [written]


def test_entries_come_newest_first_and_of_one_moment_the_last_written_first(trail: AuditTrail) -> None:
    for one in (entry("a"), entry("a2"), entry("b", days=1), entry("c", days=40)):
        trail.append(one)
    assert [one.action for one in trail.entries()] == ["c", "b", "a2", "a"]
    assert [one.action for one in trail.entries(limit=2)] == ["c", "b"]


def test_entries_are_found_by_model_and_time(trail: AuditTrail) -> None:
    for one in (entry("a"), entry("b", model="churn"), entry("c", days=45), entry("d", days=46)):
        trail.append(one)
    assert [one.action for one in trail.entries(model="churn")] == ["b"]
    since, until = NOW + timedelta(days=1), NOW + timedelta(days=45)
    assert [one.action for one in trail.entries(since=since, until=until)] == ["c"]


def test_of_several_who_write_one_act_down_one_does(trail: AuditTrail) -> None:
    run = {"via": "airflow", "run_id": "run-1"}
    for release in ("r-1", "r-1", "r-2"):
        act = AuditEntry(NOW, "ada", "release", "fraud", 3, release, detail=run)
        trail.append_once(act, same="run_id", since=NOW)
    assert [one.release_id for one in trail.entries()] == ["r-2", "r-1"]
    # The API knows no release yet, and is first.
    trail.append(AuditEntry(NOW, "ada", "rollback", "fraud", detail={"via": "api", "run_id": "run-2"}))
    act = AuditEntry(NOW, "ada", "rollback", "fraud", detail={"via": "airflow", "run_id": "run-2"})
    trail.append_once(act, same="run_id", since=NOW)
    assert len(trail.entries()) == 3


class Away:
    """Rows of a controller that does not answer."""

    def __init__(self) -> None:
        self.rows = MemoryLedger()

    def save(self, *_: object) -> None:
        raise Unreachable("it is away", remedy="start it")

    def find(self, kind: type[AuditRow], **wanted: object) -> list[AuditRow]:
        return self.rows.find(kind, **wanted)  # type: ignore[arg-type]


def test_what_was_done_while_the_controller_was_away_is_known_at_once_and_taken_up_once(
    tmp_path: Path,
) -> None:
    away, late = Away(), tmp_path / "late"
    trail = AuditTrail(away, late)  # type: ignore[arg-type]
    assert trail.append_or_queue(entry("rollback")) == ""
    assert trail.entries() == [entry("rollback")]
    (late / "torn.json").write_bytes(b"{")
    assert (take_late(away.rows, late), take_late(away.rows, late)) == (1, 0)
    assert trail.entries() == [entry("rollback")]
    assert away.rows.verify_audit().number == 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", kilobytes=1024) as disk:
        yield disk


@pytest.fixture
def ledger(disk: SmallDisk) -> Iterator[SqlLedger]:
    opened = open_ledger(f"sqlite:///{disk.root / 'ledger.db'}")
    yield opened
    opened.close()


def test_a_full_disk_refuses_an_entry_whole_and_says_so(disk: SmallDisk, ledger: SqlLedger) -> None:
    trail = AuditTrail(ledger, disk.root / "late")
    trail.append(entry("a"))
    disk.fill()
    with pytest.raises(DiskFull, match="its disk is full"):
        trail.append(entry("b", reason="x" * 400_000))
    disk.make_room()
    assert ledger.verify_audit().number == len(trail.entries())


def test_what_a_full_disk_did_not_take_is_known_at_once_and_written_when_there_is_room(
    disk: SmallDisk, ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit, "RETRY_SECONDS", 0.01)
    trail, reason = AuditTrail(ledger, disk.root / "late"), "x" * 100_000
    trail.append(entry("before"))
    disk.fill()
    assert "its disk is full" in trail.append_or_queue(entry("rollback", reason=reason))
    assert '"action":"rollback"' in caplog.text
    assert [one.action for one in trail.entries()] == ["rollback", "before"]
    assert len(ledger.find(AuditRow)) == 1
    disk.make_room()
    until(lambda: len(ledger.find(AuditRow)) == 2)
    until(lambda: [one.action for one in trail.entries()] == ["rollback", "before"])


def test_what_somebody_else_wrote_down_meanwhile_is_not_written_twice(
    disk: SmallDisk, ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "RETRY_SECONDS", 0.01)
    run = {"via": "api", "run_id": "slipway__1"}
    trail, reason = AuditTrail(ledger, disk.root / "late"), "x" * 100_000
    trail.append(entry("before"))
    disk.fill()
    trail.append_or_queue(AuditEntry(NOW, "ada", "rollback", "fraud", None, None, reason, run))
    trail.append_or_queue(AuditEntry(NOW, "ada", "abort", "fraud", None, None, reason))
    with monkeypatch.context() as held:
        held.setattr(audit._Queue, "deliver", lambda self: None)
        disk.make_room()
        task = AuditEntry(NOW, "ada", "rollback", "fraud", detail={**run, "via": "airflow"})
        trail.append_once(task, same="run_id", since=NOW)
    until(lambda: len(ledger.find(AuditRow)) == 3)
    assert sorted((one.action, one.detail.get("via")) for one in trail.entries()) == [
        ("abort", None),
        ("before", None),
        ("rollback", "airflow"),
    ]


def test_room_is_missed_before_it_is_needed(disk: SmallDisk, ledger: SqlLedger) -> None:
    trail = AuditTrail(ledger, disk.root / "late")
    trail.require_room()
    disk.fill()
    with pytest.raises(Unwritable, match="its disk is full"):
        trail.require_room()


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to pass")

"""The audit trail keeps what people did, whole and in order."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest

from serving.control import audit
from serving.control.audit import AuditEntry, AuditTrail
from tests.mounts import SmallDisk, small_disk

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def entry(action: str = "release", *, days: float = 0, model: str = "fraud", **more: str) -> AuditEntry:
    return AuditEntry(NOW + timedelta(days=days), "ada", action, model, 3, **more)  # type: ignore[arg-type]


def test_an_entry_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = AuditEntry(NOW, "ädá", "freeze", None, None, "r-1", '=1+1 <b> "\n', {"via": "api"})
    AuditTrail(tmp_path).append(written)
    assert AuditTrail(tmp_path).entries() == [written]


def test_entries_come_newest_first_and_of_one_moment_the_last_written_first(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path)
    for one in (entry("b", days=1), entry("a"), entry("c", days=40), entry("a2")):
        trail.append(one)
    assert [one.action for one in trail.entries()] == ["c", "b", "a2", "a"]
    assert [one.action for one in trail.entries(limit=2)] == ["c", "b"]


def test_entries_are_found_by_model_and_time(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path)
    for one in (entry("a"), entry("b", model="churn"), entry("c", days=45), entry("d", days=46)):
        trail.append(one)
    assert [one.action for one in trail.entries(model="churn")] == ["b"]
    since, until = NOW + timedelta(days=1), NOW + timedelta(days=45)
    assert [one.action for one in trail.entries(since=since, until=until)] == ["c"]


def test_a_line_torn_by_a_crash_costs_no_other_line(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path)
    trail.append(entry("a"))
    with (tmp_path / "2026-11.jsonl").open("ab") as file:
        file.write(b'{"at": "2026-11-2')
    trail.append(entry("b"))
    assert [one.action for one in trail.entries()] == ["b", "a"]


def _write(root: Path, name: str) -> None:
    for _ in range(50):
        AuditTrail(root).append(entry(name * 500))


def test_many_processes_may_write_at_once(tmp_path: Path) -> None:
    writers = [get_context("fork").Process(target=_write, args=(tmp_path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(AuditTrail(tmp_path).entries()) == 150


def lines(root: Path) -> list[str]:
    return [one.action for one in AuditTrail(root).entries()]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "audit", kilobytes=128) as disk:
        yield disk


def fill_but(disk: SmallDisk, path: Path, *, leave: int) -> None:
    """So many bytes fit into the last page of the file, and no other page is left."""
    with path.open("ab") as file:
        file.write(b" " * (4096 - leave - path.stat().st_size % 4096 - 1) + b"\n")
    disk.fill()


def test_a_line_that_fits_only_in_part_leaves_nothing_and_says_so(disk: SmallDisk) -> None:
    trail = AuditTrail(disk.root)
    trail.append(entry("a"))
    path = disk.root / "2026-11.jsonl"
    fill_but(disk, path, leave=60)
    before = path.read_bytes()
    with pytest.raises(OSError, match=r"No space left on device: '.*2026-11\.jsonl'$"):
        trail.append(entry("b"))
    assert path.read_bytes() == before
    assert lines(disk.root) == ["a"]


def test_what_a_full_disk_did_not_take_is_known_at_once_and_written_when_there_is_room(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit, "RETRY_SECONDS", 0.01)
    disk.fill()
    problem = AuditTrail(disk.root).append_or_queue(entry("rollback"))
    assert "No space left on device" in problem
    assert '"action":"rollback"' in caplog.text
    assert lines(disk.root) == ["rollback"]
    assert not (disk.root / "2026-11.jsonl").read_bytes()
    disk.make_room()
    until(lambda: (disk.root / "2026-11.jsonl").read_bytes() != b"")
    until(lambda: lines(disk.root) == ["rollback"])


def test_what_somebody_else_wrote_down_meanwhile_is_not_written_twice(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "RETRY_SECONDS", 0.01)
    disk.fill()
    run = {"via": "api", "run_id": "slipway__1"}
    trail = AuditTrail(disk.root)
    trail.append_or_queue(AuditEntry(NOW, "ada", "rollback", "fraud", detail=run))
    trail.append_or_queue(AuditEntry(NOW, "ada", "abort", "fraud"))
    with monkeypatch.context() as held:
        held.setattr(audit._Queue, "deliver", lambda self: None)
        disk.make_room()
        task = AuditEntry(NOW, "ada", "rollback", "fraud", detail={**run, "via": "airflow"})
        trail.append_once(task, same="run_id", since=NOW)
    until(lambda: (disk.root / "2026-11.jsonl").read_bytes().count(b"\n") == 2)
    assert sorted((one.action, one.detail.get("via")) for one in trail.entries()) == [
        ("abort", None),
        ("rollback", "airflow"),
    ]


def test_room_is_missed_before_it_is_needed(disk: SmallDisk) -> None:
    trail = AuditTrail(disk.root)
    trail.require_room()
    disk.remount("ro")
    with pytest.raises(OSError, match="Read-only file system"):
        trail.require_room()
    disk.remount("rw")
    disk.fill()
    with pytest.raises(OSError, match="No space left on device"):
        trail.require_room()


def test_a_line_whose_way_to_the_disk_failed_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trail = AuditTrail(tmp_path)
    with monkeypatch.context() as failing:
        failing.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*2026-11\.jsonl'$"):
            trail.append(entry("a"))
    assert lines(tmp_path) == []


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to pass")

"""The audit trail keeps what people did, whole and in order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

from serving.audit import AuditTrail, Entry

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def entry(action: str = "release", *, days: float = 0, model: str = "fraud", **more: str) -> Entry:
    return Entry(NOW + timedelta(days=days), "ada", action, model, 3, **more)  # type: ignore[arg-type]


def test_an_entry_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = Entry(NOW, "ädá", "freeze", None, None, "r-1", '=1+1 <b> "\n', {"via": "api"})
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

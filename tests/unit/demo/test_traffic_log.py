"""Reading the log, while it grows and after."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.traffic_log import HEADER, Entry, Tally, TrafficLog, failures_by_kind, percentile
from model_store.errors import Permanent


def entry(at: float, outcome: str = "ok", version: int = 1, latency_ms: float = 2.0) -> Entry:
    return Entry(at, latency_ms, outcome, version, correct=True)


def write(path: Path, *entries: Entry, end: str = "") -> Path:
    path.write_text(HEADER + "".join(one.line() for one in entries) + end)
    return path


def test_an_entry_survives_the_trip_through_the_log() -> None:
    one = Entry(1_790_000_000.1234, 3.25, "status 503", 4, correct=False)
    assert Entry.of(one.line()) == one


def test_a_tally_counts_lines_once_as_they_come(tmp_path: Path) -> None:
    path = write(tmp_path / "log", entry(1), entry(2, "timeout", 0))
    tally = Tally(path).update()
    tally.update()
    with path.open("a") as log:
        log.write(entry(3, version=2).line())
    tally.update()
    assert (tally.total, tally.failed, dict(tally.answers)) == (3, 1, {1: 1, 2: 1})


def test_a_half_written_line_waits_for_its_other_half(tmp_path: Path) -> None:
    path = tmp_path / "log"
    line = entry(1).line()
    path.write_text(HEADER + line[:9])
    tally = Tally(path).update()
    assert tally.total == 0
    with path.open("a") as log:
        log.write(line[9:])
    assert tally.update().total == 1


def test_a_tally_of_a_log_not_yet_there_is_empty(tmp_path: Path) -> None:
    assert Tally(tmp_path / "log").update().total == 0


def test_recent_entries_are_those_of_the_last_seconds(tmp_path: Path) -> None:
    path = write(tmp_path / "log", *(entry(float(second)) for second in range(10)))
    tally = Tally(path).update(recent_seconds=3)
    assert [one.sent_at for one in tally.recent] == [7, 8, 9]


def test_a_finished_log_says_how_many_were_sent(tmp_path: Path) -> None:
    log = TrafficLog.read(write(tmp_path / "log", entry(2), entry(1), end="# sent 3\n"))
    assert log.sent == 3
    assert [one.sent_at for one in log.entries] == [1, 2]


def test_a_log_whose_sender_was_killed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="no last line"):
        TrafficLog.read(write(tmp_path / "log", entry(1)))


def test_an_empty_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    with pytest.raises(Permanent, match="no last line"):
        TrafficLog.read(tmp_path / "log")


def test_only_good_answers_count_as_answered_by_a_version(tmp_path: Path) -> None:
    log = TrafficLog.read(write(tmp_path / "log", entry(1), entry(2, "status 500"), end="# sent 2\n"))
    assert len(log.answered_by(1)) == 1
    assert len(log.failed) == 1


def test_the_longest_pause_is_between_sendings(tmp_path: Path) -> None:
    log = TrafficLog.read(write(tmp_path / "log", entry(1), entry(1.5), entry(4), end="# sent 3\n"))
    assert log.longest_pause_seconds() == 2.5


def test_failures_are_listed_by_kind_most_frequent_first() -> None:
    found = failures_by_kind([entry(1), entry(2, "timeout"), entry(3, "connect"), entry(4, "connect")])
    assert list(found.items()) == [("connect", 2), ("timeout", 1)]


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([5.0, 1.0, 3.0], 0.5) == 3.0
    assert percentile([1.0, 2.0], 0.99) == 2.0

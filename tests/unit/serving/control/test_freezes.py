"""Freezes of the calendar, of specs and of people, and who may pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread

import pytest

from model_store.errors import Permanent
from model_store.release_spec import Freeze
from serving.control.audit import AuditEntry
from serving.control.freezes import AlreadyLifted, Freezes, Frozen, UnknownFreeze
from serving.ledger.memory import MemoryLedger
from serving.ledger.rows import AuditRow, Unstorable

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
RELEASE = "fraud-v3-20261121T120000Z"
DAILY = Freeze(reason="noon", at="11:00", hours=3)


@pytest.fixture
def freezes(tmp_path: Path) -> Freezes:
    return Freezes(MemoryLedger(), tmp_path)


def holding(freezes: Freezes, *windows: Freeze, at: datetime = NOW) -> Frozen | None:
    return freezes.holding(RELEASE, windows, at=at)


def test_nothing_is_frozen_where_nobody_said_so(freezes: Freezes) -> None:
    assert holding(freezes) is None


def test_a_persons_freeze_holds_until_its_time(freezes: Freezes) -> None:
    made = freezes.add("fraud", by="ada", reason="audit", until=NOW + HOUR, at=NOW)
    assert holding(freezes) == made
    assert made.words == "frozen until 2026-11-21 13:00 UTC: audit (ada)"
    assert holding(freezes, at=NOW + HOUR) is None


def test_a_freeze_of_one_model_leaves_the_others_alone(freezes: Freezes) -> None:
    freezes.add("churn", by="ada", reason="audit", until=None, at=NOW)
    assert holding(freezes) is None
    freezes.add(None, by="ada", reason="everything", until=None, at=NOW)
    assert (found := holding(freezes))
    assert found.words == "frozen until somebody lifts it: everything (ada)"


def test_a_freeze_into_the_past_is_refused(freezes: Freezes) -> None:
    with pytest.raises(Permanent, match="is over"):
        freezes.add(None, by="ada", reason="late", until=NOW, at=NOW)


def test_the_longest_of_several_freezes_is_the_one_told(freezes: Freezes) -> None:
    freezes.add(None, by="ada", reason="short", until=NOW + HOUR, at=NOW)
    assert (found := holding(freezes, DAILY))
    assert (found.reason, found.source) == ("noon", "spec")


def test_the_calendar_holds_every_model(freezes: Freezes, tmp_path: Path) -> None:
    (tmp_path / "calendar.yaml").write_text(
        'freezes: [{reason: sales, starts: "2026-11-21", ends: "2026-11-22"}]'
    )
    assert (found := holding(freezes))
    assert (found.source, found.model, found.reason) == ("calendar", None, "sales")
    (tmp_path / "calendar.yaml").write_text("freezes: []")
    assert holding(freezes) is None


def test_a_calendar_that_cannot_be_read_freezes_everything_and_says_why(
    freezes: Freezes, tmp_path: Path
) -> None:
    (tmp_path / "calendar.yaml").write_text("freezes: [{reason: sales, at: noon, hours: 1}]")
    assert (found := holding(freezes))
    assert "calendar.yaml cannot be read: freezes.0.at" in found.reason


@pytest.mark.parametrize("cron", ["0 0 31 2 *", "0 0 30 2 *"])
def test_a_window_of_the_calendar_that_never_comes_freezes_everything_and_says_why(
    freezes: Freezes, tmp_path: Path, cron: str
) -> None:
    (tmp_path / "calendar.yaml").write_text(f'freezes: [{{reason: sales, cron: "{cron}", hours: 1}}]')
    assert (found := holding(freezes))
    assert "calendar.yaml cannot be read: freezes.0.cron: this date never comes" in found.reason


def test_a_calendar_whose_windows_cannot_be_worked_out_freezes_everything_and_says_why(
    freezes: Freezes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OverflowError("date value out of range")

    (tmp_path / "calendar.yaml").write_text('freezes: [{reason: sales, at: "11:00", hours: 1}]')
    monkeypatch.setattr(Freeze, "until", fail)
    assert (found := holding(freezes))
    assert (found.until, found.reason) == (None, "calendar.yaml cannot be read: date value out of range")


def test_a_calendar_that_cannot_even_be_looked_for_freezes_everything(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    assert (found := holding(Freezes(MemoryLedger(), tmp_path / "a file")))
    assert "calendar.yaml cannot be read: " in found.reason


def test_an_overridden_release_passes_and_no_other(freezes: Freezes) -> None:
    freezes.add(None, by="ada", reason="audit", until=None, at=NOW)
    freezes.override(RELEASE, by="eve", reason="hotfix", at=NOW)
    assert holding(freezes) is None
    assert (found := freezes.override_of(RELEASE))
    assert (found.by, found.at) == ("eve", NOW)
    assert freezes.holding(RELEASE.replace("v3", "v4"), (), at=NOW)


def test_a_lifted_freeze_says_who_lifted_it(freezes: Freezes) -> None:
    made = freezes.add(None, by="ada", reason="audit", until=None, at=NOW)
    freezes.lift(made.id, by="eve", at=NOW)
    assert holding(freezes) is None
    with pytest.raises(AlreadyLifted, match="eve lifted it already"):
        freezes.lift(made.id, by="bob", at=NOW)


@pytest.mark.parametrize("name", ["nothing", "../calendar", "", "x" * 500])
def test_a_freeze_nobody_made_cannot_be_lifted(freezes: Freezes, name: str) -> None:
    with pytest.raises(UnknownFreeze):
        freezes.lift(name, by="bob", at=NOW)


def test_of_two_who_lift_at_the_same_moment_one_is_told(freezes: Freezes) -> None:
    made = freezes.add(None, by="ada", reason="audit", until=None, at=NOW)
    together, said = Barrier(2), list[str]()

    def lift(by: str) -> None:
        together.wait()
        try:
            said.append(freezes.lift(made.id, by=by, at=NOW).lifted_by)
        except (AlreadyLifted, UnknownFreeze) as problem:
            said.append(type(problem).__name__)

    people = [Thread(target=lift, args=(name,)) for name in ("bob", "eve")]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert len([word for word in said if word in ("bob", "eve")]) == 1


def test_an_act_and_its_entry_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    ledger = MemoryLedger()
    freezes = Freezes(ledger, tmp_path)
    made = freezes.add(None, by="ada", reason="audit", until=None, at=NOW, entry=act("freeze"))
    with pytest.raises(Unstorable):
        freezes.lift(made.id, by="bob", at=NOW, entry=act("lift", who="b\0b"))
    assert freezes.find(made.id) == made
    freezes.lift(made.id, by="eve", at=NOW, entry=act("lift"))
    with pytest.raises(AlreadyLifted):
        freezes.lift(made.id, by="bob", at=NOW, entry=act("lift"))
    freezes.override(RELEASE, by="eve", reason="hotfix", at=NOW, entry=act("override"))
    assert [one.action for one in ledger.find(AuditRow)] == ["freeze", "lift", "override"]


def act(action: str, who: str = "ada") -> AuditEntry:
    return AuditEntry(NOW, who, action)


def test_who_lifts_what_somebody_lifted_since_they_looked_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = MemoryLedger()
    freezes, slow = Freezes(ledger, tmp_path), Freezes(ledger, tmp_path)
    made = freezes.add(None, by="ada", reason="audit", until=None, at=NOW)
    looks, seen = slow._standing, [slow._standing(made.id)]
    freezes.lift(made.id, by="eve", at=NOW)
    monkeypatch.setattr(slow, "_standing", lambda name: seen.pop() if seen else looks(name))
    with pytest.raises(AlreadyLifted, match="eve lifted it already"):
        slow.lift(made.id, by="bob", at=NOW, entry=act("lift"))
    assert ledger.find(AuditRow) == []

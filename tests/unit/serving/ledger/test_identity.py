"""A home and its ledger: another one, or an empty one, is not taken for it."""

from __future__ import annotations

import errno
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from serving import composition, controller
from serving.home import Home, Ports
from serving.ledger import identity
from serving.ledger.backup import restore_sqlite
from serving.ledger.base import URL_VARIABLE
from serving.ledger.identity import OtherLedger
from serving.ledger.memory import MemoryLedger
from serving.ledger.opening import open_ledger
from serving.ledger.rows import AuditRow

ELSEWHERE = {URL_VARIABLE: "postgresql://slipway:secret@db.internal/ledger"}


def test_a_home_whose_database_is_not_named_any_more_gets_no_empty_ledger_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity.remember(tmp_path, ELSEWHERE, MemoryLedger())
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    with pytest.raises(OtherLedger, match=r"db\.internal/ledger; SLIPWAY_DATABASE_URL is not set") as refused:
        controller.main(Home(tmp_path, Ports()))
    assert not (tmp_path / "ledger.db").exists()
    assert str(tmp_path / "ledger.json") in refused.value.remedy
    assert "secret" not in str(refused.value) + (tmp_path / "ledger.json").read_text()


def test_of_an_empty_one_that_is_there_and_of_another_homes_it_is_said_which_is_which(tmp_path: Path) -> None:
    identity.remember(tmp_path, {}, MemoryLedger())
    with pytest.raises(OtherLedger, match=r"names postgresql.*, which is empty"):
        identity.require_same(tmp_path, ELSEWHERE, MemoryLedger())
    (tmp_path / "other").mkdir()
    identity.remember(tmp_path / "other", ELSEWHERE, theirs := MemoryLedger())
    with pytest.raises(OtherLedger, match="which is another one"):
        identity.require_same(tmp_path, ELSEWHERE, theirs)


def test_a_restored_ledger_and_the_same_one_by_another_name_are_the_homes_own(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", Ports())
    home.root.mkdir()
    with closing(composition.ledger_of(home, {})) as ledger:
        identity.remember(home.root, {}, ledger)
        ledger.backup(tmp_path / "backup.db")
    restore_sqlite(tmp_path / "backup.db", tmp_path / "elsewhere.db")
    moved = {URL_VARIABLE: f"sqlite:///{tmp_path / 'elsewhere.db'}"}
    identity.require_there(home.root, moved)
    with closing(open_ledger(moved[URL_VARIABLE])) as ledger:
        identity.require_same(home.root, moved, ledger)


def test_a_backup_of_before_ledgers_had_ids_gets_the_homes(tmp_path: Path) -> None:
    identity.remember(tmp_path, {}, MemoryLedger())
    older = MemoryLedger()
    older.save(AuditRow(at=datetime(2026, 11, 1, tzinfo=UTC), who="ann", action="freeze", reason="audit"))
    identity.require_same(tmp_path, {}, older)
    identity.remember(tmp_path, {}, older)
    known = identity.known_to(tmp_path)
    assert known
    assert older.adopted() == {"ledger": known.id}


def test_several_homes_of_one_ledger_note_the_same(tmp_path: Path) -> None:
    ledger = MemoryLedger()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        identity.remember(tmp_path / name, ELSEWHERE, ledger)
    assert identity.known_to(tmp_path / "a") == identity.known_to(tmp_path / "b")


def test_a_disk_that_takes_no_note_keeps_no_controller_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(identity, "write_file", full)
    controller.note_ledger(Home(tmp_path, Ports()), MemoryLedger())
    assert identity.known_to(tmp_path) is None

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from serving.ledger.base import Damaged, Unreachable
from serving.ledger.opening import open_ledger
from serving.ledger.rows import RolloutRow
from tests.contract.ledger_contract import Ledgers, SharedLedgerContract, rollout, whole_change


class TestSqliteLedger(SharedLedgerContract):
    @pytest.fixture
    def url(self, sqlite_url: str) -> str:
        return sqlite_url

    @pytest.fixture
    def empty_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'not' / 'there.db'}"

    @pytest.fixture
    def ledgers(self, by_clock: Ledgers) -> Ledgers:
        return by_clock

    def drop_triggers(self, connection: Any) -> None:
        for act in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(f"DROP TRIGGER audit_{act}")


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def test_a_file_that_was_removed_or_replaced_is_not_written_into(sqlite_url: str, new_sqlite: Path) -> None:
    ledger = open_ledger(sqlite_url)
    ledger.save(rollout("before"))
    path_of(sqlite_url).rename(path_of(sqlite_url).with_name("moved.db"))
    with pytest.raises(Unreachable):
        ledger.save(rollout("after"))
    assert not path_of(sqlite_url).exists()
    for left in path_of(sqlite_url).parent.glob("ledger.db-*"):
        left.unlink()
    shutil.copy(new_sqlite, path_of(sqlite_url))
    ledger.save(rollout("restored"))
    assert [row.release_id for row in ledger.find(RolloutRow)] == ["restored"]
    ledger.close()


def test_a_file_that_is_no_database_says_which_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("this is no database, whatever its name says" * 100)
    with pytest.raises(Damaged, match=r"ledger\.db.*\n.*backup"):
        open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}")


def test_a_restored_file_that_another_reads_is_opened_when_that_is_over(
    sqlite_url: str, tmp_path: Path
) -> None:
    ledger = open_ledger(sqlite_url)
    ledger.backup(tmp_path / "restored.db")
    ledger.close()
    reader = sqlite3.connect(tmp_path / "restored.db", check_same_thread=False)
    assert reader.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM audit").fetchone()
    # SQLite refuses to change the journal under a reader, whatever its patience.
    with pytest.raises(Unreachable):
        open_ledger(f"sqlite:///{tmp_path / 'restored.db'}", patience_seconds=0.1)
    over = threading.Timer(0.3, reader.rollback)
    over.start()
    opened = open_ledger(f"sqlite:///{tmp_path / 'restored.db'}", patience_seconds=60)
    opened.save(rollout("fraud-v3"))
    over.join()
    reader.close()
    opened.close()


def test_threads_of_one_process_write_one_after_the_other(sqlite_url: str) -> None:
    ledger = open_ledger(sqlite_url, patience_seconds=0.1)
    with (
        ThreadPoolExecutor(1) as pool,
        ledger.database.writing(),
        pytest.raises(Unreachable, match="another thread"),
    ):
        pool.submit(ledger.save, rollout("late")).result()
    ledger.save(rollout("later"))
    ledger.close()


def test_changes_write_in_one_order_so_that_no_two_wait_for_each_other(sqlite_url: str) -> None:
    ledger = open_ledger(sqlite_url)
    written: list[tuple[str, str]] = []

    @event.listens_for(ledger.database.engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("INSERT", "UPDATE")):
            written.append((statement.removeprefix("INSERT INTO ").split()[0], str(parameters[0])))

    change = [*whole_change("b")[:3], rollout("a")]
    for order in (change, [*change[:0:-1], replace(change[0], id="another")]):
        rows = ledger.save(*order)
        assert [type(row) for row in rows] == [type(row) for row in order]
        tables = [table for table, _ in written]
        assert tables == ["rollouts", "rollouts", "routes", "route_history", "audit", "UPDATE"]
        assert [key for _, key in written[:2]] == ["a", "b"]
        written.clear()
        with ledger.database.writing() as connection:
            connection.exec_driver_sql("DELETE FROM rollouts")
            connection.exec_driver_sql("DELETE FROM routes")
    ledger.close()


def test_a_torn_page_is_damage_and_no_answer(sqlite_url: str) -> None:
    ledger = open_ledger(sqlite_url)
    ledger.save(*(rollout(f"r{number}") for number in range(200)))
    with ledger.database.engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger.close()
    size = path_of(sqlite_url).stat().st_size
    with path_of(sqlite_url).open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(size // 2))
    with pytest.raises(Damaged):
        open_ledger(sqlite_url).find(RolloutRow)


def test_decisions_are_synced_to_the_disk_and_observations_are_not(sqlite_url: str) -> None:
    ledger = open_ledger(sqlite_url)
    asked = "PRAGMA synchronous"
    with ledger.database.writing() as connection:
        assert connection.exec_driver_sql(asked).scalar() == 2  # FULL
    with ledger.database.writing(durably=False) as connection:
        assert connection.exec_driver_sql(asked).scalar() == 1  # NORMAL
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    ledger.close()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    open_ledger(f"sqlite:///{tmp_path / 'new.db'}").close()
    assert (tmp_path / "new.db").stat().st_mode & 0o077 == 0


def test_a_disk_that_takes_nothing_is_retryable(sqlite_url: str) -> None:
    ledger = open_ledger(sqlite_url)
    with ledger.database.engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    from model_store.unwritable import DiskFull

    big = {"words": "x" * 100_000}
    with pytest.raises(DiskFull, match=r"ledger\.db"):
        ledger.save(rollout("r1"), *(rollout(f"big{n}").__class__(**_fields(n, big)) for n in range(3)))
    assert ledger.find(RolloutRow) == []
    ledger.close()
    assert sqlite3.connect(path_of(sqlite_url)).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _fields(number: int, document: dict[str, str]) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(rollout(f"big{number}")), "document": document}

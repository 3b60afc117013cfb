from __future__ import annotations

import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from model_store.errors import Permanent
from serving.ledger.backup import restore_sqlite
from serving.ledger.base import Fenced, StaleGeneration
from serving.ledger.opening import open_ledger
from serving.ledger.rows import AuditRow, EventRow, RolloutRow
from serving.ledger.sql import SqlLedger
from tests.contract.ledger_process import AT, rollout, whole_change
from tests.postgresql import Server
from tests.tools import POSTGRESQL, require


def test_a_backup_made_while_others_write_is_whole_and_of_one_moment(sqlite_url: str, tmp_path: Path) -> None:
    ledger = open_ledger(sqlite_url)
    writing = threading.Thread(target=_write_on, args=(ledger, over := threading.Event()))
    writing.start()
    while len(ledger.find(AuditRow)) < 5:
        pass
    ledger.backup(tmp_path / "copies" / "backup.db")
    known = ledger.verify_audit()
    over.set()
    writing.join()
    restore_sqlite(tmp_path / "copies" / "backup.db", tmp_path / "restored" / "ledger.db")
    restored = open_ledger(f"sqlite:///{tmp_path / 'restored' / 'ledger.db'}")
    # Each change has one of each: a copy of two moments would have more of one than of another.
    acts = restored.find(AuditRow)
    assert len(acts) >= 5
    assert len(restored.find(EventRow)) == len(acts) == restored.get(RolloutRow, "fraud-v3").generation
    # It is the beginning of what went on.
    assert restored.verify_audit().number <= known.number
    assert ledger.verify_audit(restored.verify_audit())
    for each in (ledger, restored):
        each.close()
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["backup.db"]


def _write_on(ledger: SqlLedger, over: threading.Event) -> None:
    kept = rollout("fraud-v3")
    while not over.is_set():
        event = EventRow(release_id="fraud-v3", at=AT, kind="shift", detail="", candidate_weight=5)
        saved = ledger.save(kept, event, AuditRow(at=AT, who="ann", action="look"))[0]
        assert isinstance(saved, RolloutRow)
        kept = saved


def test_who_decided_on_what_a_restored_ledger_does_not_know_is_refused(
    sqlite_url: str, tmp_path: Path
) -> None:
    ledger = open_ledger(sqlite_url)
    (first,) = ledger.save(rollout("fraud-v3"))
    ledger.backup(tmp_path / "backup.db")
    (second,) = ledger.save(first)
    ledger.close()
    for left in (tmp_path / "ledger.db", tmp_path / "ledger.db-wal", tmp_path / "ledger.db-shm"):
        left.unlink(missing_ok=True)
    restore_sqlite(tmp_path / "backup.db", tmp_path / "ledger.db")
    restored = open_ledger(sqlite_url)
    with pytest.raises(StaleGeneration, match="is at generation 1, the decision was made on generation 2"):
        restored.save(replace(second, phase="watching"))
    restored.close()


def test_who_held_the_lease_before_a_restore_is_not_taken_for_who_gets_it_afterwards(
    sqlite_url: str, tmp_path: Path
) -> None:
    ledger = open_ledger(sqlite_url)
    ledger.backup(tmp_path / "backup.db")
    before = ledger.acquire("controller", "of before", seconds=600)
    ledger.close()
    restore_sqlite(tmp_path / "backup.db", tmp_path / "restored.db")
    restored = open_ledger(f"sqlite:///{tmp_path / 'restored.db'}")
    after = restored.acquire("controller", "of after", seconds=600)
    assert before
    assert after
    assert before.token == after.token
    with pytest.raises(Fenced, match="of after has it"):
        restored.save(rollout("late"), fence=before.fence)
    with pytest.raises(Fenced):
        restored.renew(before)
    restored.save(rollout("mine"), fence=after.fence)
    restored.close()


def test_a_restore_over_a_ledger_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    ledger = open_ledger(sqlite_url)
    ledger.save(rollout("fraud-v3"))
    ledger.backup(tmp_path / "backup.db")
    with pytest.raises(Permanent, match=r"(?s)ledger\.db.*move"):
        restore_sqlite(tmp_path / "backup.db", tmp_path / "ledger.db")
    ledger.close()


def test_a_backup_of_postgresql_is_restored_by_its_own_tool(
    server: Server, postgresql_url: str, tmp_path: Path
) -> None:
    ledger = open_ledger(postgresql_url)
    ledger.save(*whole_change("fraud-v3"))
    known = ledger.verify_audit()
    ledger.backup(tmp_path / "ledger.dump")
    ledger.save(*whole_change("later"))
    ledger.close()
    empty = server.database()
    restore = Path(require(POSTGRESQL)).resolve().with_name("pg_restore")
    subprocess.run([restore, "--no-owner", f"--dbname={empty}", tmp_path / "ledger.dump"], check=True)
    restored = open_ledger(empty)
    assert restored.verify_audit(known) == known
    assert [row.release_id for row in restored.find(RolloutRow)] == ["fraud-v3"]
    restored.save(*whole_change("after"))
    restored.close()

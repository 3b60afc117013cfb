"""What other processes do to a ledger while a test looks: `python -m tests.contract.ledger_process ACT URL`.

Each act prints JSON, one value a line. Children are forked before any connection or thread is made.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import event

from serving.ledger.base import Fenced, Once, StaleGeneration
from serving.ledger.opening import open_ledger
from serving.ledger.rows import (
    AttemptRow,
    AuditRow,
    EventRow,
    MessageRow,
    NoteRow,
    ObservationRow,
    ReleaseChangeRow,
    ReleaseRecord,
    RequestRow,
    RolloutRow,
    RouteChangeRow,
    RouteRow,
)
from serving.ledger.sql import SqlLedger

AT = datetime(2026, 11, 30, 12, tzinfo=UTC)
# Generous: several of these run beside each other on two cores.
PATIENCE_SECONDS = 20.0


def rollout(release_id: str, generation: int = 0, phase: str = "progressing") -> RolloutRow:
    return RolloutRow(
        release_id=release_id,
        service="fraud",
        version=3,
        phase=phase,
        is_over=phase in ("done", "rolled_back"),
        started_at=AT,
        changed_at=AT,
        document={"step": 1},
        generation=generation,
    )


def whole_change(name: str) -> tuple[Any, ...]:
    """One change of everything that a rollback writes at once."""
    return (
        AuditRow(at=AT, who="ann", action="rollback", release_id=name, reason="too slow"),
        rollout(name),
        RouteRow(service=name, at=AT, stable_version=2, document={"split": [100, 0]}),
        EventRow(release_id=name, at=AT, kind="rolled back", detail="too slow", candidate_weight=0),
        Once(MessageRow(id=f"{name}.0", model="fraud", at=AT, next_at=AT)),
        NoteRow(id=f"{name}/hold", model=name, kind="hold", at=AT),
        ReleaseRecord(
            id=name, model=name, version=3, requested_at=AT, requested_by="ann", status="rolled_back"
        ),
        RequestRow(id=f"{name}-rollback", service=name, action="rollback", by="ann", reason="slow", at=AT),
        ObservationRow(release_id=name, at=AT, place=1, document={}),
    )


def parts_of(ledger: SqlLedger, name: str) -> list[int]:
    """How many rows of each kind `whole_change` left."""
    return [
        len(ledger.find(AuditRow, release_id=name)),
        len(ledger.find(RolloutRow, release_id=name)),
        len(ledger.find(RouteRow, service=name)),
        len(ledger.find(RouteChangeRow, service=name)),
        len(ledger.find(EventRow, release_id=name)),
        len(ledger.find(MessageRow, id=f"{name}.0")),
        len(ledger.find(NoteRow, model=name)),
        len(ledger.find(ReleaseRecord, id=name)),
        len(ledger.find(RequestRow, service=name)),
        len(ledger.find(ReleaseChangeRow, model=name, kind="Release")),
        len(ledger.find(ReleaseChangeRow, model=name, kind="Request")),
        len(ledger.find(ObservationRow, release_id=name)),
    ]


def race(url: str) -> None:
    """All of the following."""
    for each in (save_at_once, create_at_once, acquire_at_once, claim_at_once, append_at_once):
        each(url)


def save_at_once(url: str) -> None:
    """Four processes save over generation 1; prints what came of each."""

    def save(number: int) -> str:
        ledger = _open(url)
        _meet()
        try:
            ledger.save(rollout("fraud-v3", generation=1, phase=f"phase-{number}"))
        except StaleGeneration:
            return "stale"
        return "saved"

    _tell(_in_children(4, save))


def create_at_once(url: str) -> None:
    """Four processes try the same version; prints which may."""

    def create(number: int) -> str:
        ledger = _open(url)
        _meet()
        attempt = AttemptRow(id="fraud/v3", model="fraud", version=3, run_id=f"run-{number}", at=AT)
        return "mine" if ledger.create(attempt) else "theirs"

    _tell(_in_children(4, create))


def append_at_once(url: str) -> None:
    """Eight processes write ten acts each."""

    def append(number: int) -> str:
        ledger = _open(url)
        _meet()
        for act in range(10):
            ledger.save(AuditRow(at=AT, who=f"writer-{number}", action=f"act-{act}"))
        return "done"

    _tell(_in_children(8, append))


def claim_at_once(url: str) -> None:
    """Four processes claim what is due, until nothing is left; prints who got what."""

    def claim(number: int) -> str:
        ledger = _open(url)
        _meet()
        found = []
        while claimed := ledger.claim(seconds=600, limit=3):
            found += [letter.id for letter in claimed]
        return " ".join(found)

    _tell(_in_children(4, claim))


def acquire_at_once(url: str) -> None:
    """Eight processes ask for one lease; prints the tokens of those who got it."""

    def acquire(number: int) -> str:
        ledger = _open(url)
        _meet()
        lease = ledger.acquire("controller", f"process-{number}", seconds=600)
        return str(lease.token) if lease else ""

    _tell(_in_children(8, acquire))


def open_at_once(url: str) -> None:
    """Four processes open a ledger that is not there yet."""
    _tell(_in_children(4, lambda number: str(_open(url).verify_audit().number)))


def die_everywhere(url: str) -> None:
    """Save a change again and again, killed before its first statement, its second ... until none kills it;
    prints what each left."""
    for place in range(100):
        name = f"killed-{place}"
        ended = _in_child(partial(_save_and_die, url, name, place))
        was_killed = ended == -signal.SIGKILL
        ledger = _open(url)
        ledger.verify_audit()
        _tell([was_killed, parts_of(ledger, name)])
        ledger.close()
        if not was_killed:
            return


def hold(url: str, seconds: str) -> None:
    """Take the lease, wait to be told, and write under it."""
    ledger = _open(url)
    lease = ledger.acquire("controller", "the first", seconds=float(seconds))
    _tell(lease.token if lease else None)
    sys.stdin.readline()
    assert lease
    try:
        ledger.save(rollout("late"), fence=lease.fence)
        outcome = "written"
    except Fenced:
        outcome = "fenced"
    _tell(outcome)


def stop_inside(url: str, seconds: str) -> None:
    """Take the lease, and stop in the middle of a change under it, holding what it has locked."""
    ledger = open_ledger(url, patience_seconds=1)
    lease = ledger.acquire("controller", "the first", seconds=float(seconds))
    assert lease

    is_first = iter([True])

    @event.listens_for(ledger.database.engine, "before_cursor_execute")
    def stop(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.lstrip().upper().startswith("INSERT") and next(is_first, False):
            _tell(lease.token)
            os.kill(os.getpid(), signal.SIGSTOP)

    try:
        ledger.save(rollout("late"), fence=lease.fence)
        outcome = "written"
    except Exception as problem:
        outcome = type(problem).__name__
    _tell(outcome)


def lock(url: str) -> None:
    """Keep everybody from writing, until told."""
    ledger = _open(url)
    with ledger.database.writing() as connection:
        if not ledger.database.is_sqlite:
            connection.exec_driver_sql("LOCK TABLE audit_head, rollouts IN ACCESS EXCLUSIVE MODE")
        _tell("locked")
        sys.stdin.readline()


def _save_and_die(url: str, name: str, place: int) -> None:
    ledger = _open(url)
    ledger.verify_audit()
    statements = iter(range(10_000))

    def die(*_: Any) -> None:
        if next(statements) == place:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(ledger.database.engine, "before_cursor_execute", die)
    event.listen(ledger.database.engine, "commit", die)
    ledger.save(*whole_change(name))


def _open(url: str) -> SqlLedger:
    return open_ledger(url, patience_seconds=PATIENCE_SECONDS)


def _meet() -> None:
    """Everybody is there within the same tenth of a second, and begins at the next whole one."""
    time.sleep(0.2 - time.time() % 0.2)


def _in_children(number: int, act: Callable[[int], str]) -> list[str]:
    """What each of so many children came to, all at once."""
    pipes = [_forked(act, each) for each in range(number)]
    return [os.fdopen(pipe).read() for pipe in pipes]


def _forked(act: Callable[[int], str], number: int) -> int:
    ours, theirs = os.pipe()
    if os.fork():
        os.close(theirs)
        return ours
    try:
        words = act(number)
    except Exception as problem:
        words = repr(problem)
    os.write(theirs, words.encode())
    os._exit(0)


def _in_child(act: Callable[[], None]) -> int:
    """How it ended: 0, or minus the signal."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _tell(value: object) -> None:
    print(json.dumps(value), flush=True)  # noqa: T201


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

"""Who did what in production, when and why: one entry for each act of a person, never changed afterwards.

Entries are in the ledger, as a chain of hashes (`serving.ledger.chain`). An entry is on the disk before
`append` returns, so an act is written down before it has its effect, or with it, and a crash can only leave
an act that came to nothing. Only what takes users away from a version does not wait for its entry
(`append_or_queue`).
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from model_store.durable import write_file
from model_store.errors import SlipwayError
from serving.ledger import wire
from serving.ledger.base import Rows, Wanted
from serving.ledger.rows import AuditRow

LONGEST_REASON = 1000
# How often a ledger that took no entry is tried again.
RETRY_SECONDS = 5.0
# How far clocks of those who write may be apart.
_SLACK = timedelta(minutes=10)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One act. `who` is the name of the account, `action` a verb (`release`, `approve`, `freeze` ...).

    `detail` holds what else is worth knowing, as names and words (`via`: api, airflow, cli).
    """

    at: datetime
    who: str
    action: str
    model: str | None = None
    version: int | None = None
    release_id: str | None = None
    reason: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)


class AuditTrail:
    """The entries among `rows`. `late`: where those wait that could not be written (Home.late)."""

    def __init__(self, rows: Rows, late: Path) -> None:
        self._rows, self._late = rows, late

    def append(self, entry: AuditEntry) -> None:
        """Write the entry down; when this returns, it is on the disk, and if this raises, nothing is."""
        self._rows.save(to_row(entry))

    def append_once(self, entry: AuditEntry, *, same: str, since: datetime) -> None:
        """Unless there is an entry of this act since then: of the same release or model, with the same `same`
        in its detail. Of several writers at once, one writes."""
        if not is_known(self._rows, entry, same=same, since=since):
            self._rows.save(to_row(entry, id=_id_of(entry, same)))

    def require_room(self) -> None:
        """Raises as `append` would: for acts whose entry can only follow their effect."""
        self._rows.require_room()

    def append_or_queue(self, entry: AuditEntry) -> str:
        """Append, or say why not: neither a full disk nor a controller that is away keeps a user from stable.

        A file below `late` gets the entry then, which the controller takes up. Where the disk takes no file
        either, the log has it and this process goes on trying until it ends. It is among the `entries`.
        """
        row = to_row(entry)
        try:
            self._rows.save(row)
        except (OSError, SlipwayError) as problem:
            if _put_late(self._late, row):
                return ""
            log.exception("not in the audit trail: %s", orjson.dumps(asdict(entry)).decode())
            _queue_of(self._late).add(self._rows, row)
            return str(problem)
        return ""

    def entries(
        self,
        model: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        *,
        release_id: str | None = None,
    ) -> list[AuditEntry]:
        """Newest first, from `since` to `until` inclusive; of more than `limit` those written last."""
        wanted: dict[str, Wanted] = {"model": model, "release_id": release_id}
        equal: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        written = self._rows.find(AuditRow, since=since, until=until, newest=limit, **equal)
        waiting = (
            row
            for row in (*_late_rows(self._late), *_queue_of(self._late).waiting())
            if all(getattr(row, name) == value for name, value in equal.items())
            and (since is None or row.at >= since)
            and (until is None or row.at <= until)
        )
        # Of entries with the same time, the one written last is the newest; what waits comes after all.
        found = {row.id: row for row in (*written, *waiting)}.values()
        ordered = sorted(found, key=lambda row: (row.at, row.number or float("inf")), reverse=True)
        return [of_row(row) for row in ordered[:limit]]


def to_row(entry: AuditEntry, *, id: str = "") -> AuditRow:
    """As the ledger keeps it."""
    said: dict[str, Any] = {name: getattr(entry, name) for name in _SHARED}
    known: dict[str, Any] = {"id": id} if id else {}
    return AuditRow(document=dict(entry.detail), **said, **known)


def of_row(row: AuditRow) -> AuditEntry:
    return AuditEntry(detail=row.document, **{name: getattr(row, name) for name in _SHARED})


def take_late(rows: Rows, late: Path) -> int:
    """The controller takes up what others could not write while it was away. May be repeated."""
    taken = _late_rows(late)
    for row in taken:
        rows.save(row)
        _late_path(late, row).unlink(missing_ok=True)
    return len(taken)


def is_known(rows: Rows, entry: AuditEntry, *, same: str, since: datetime) -> bool:
    """Whether this act is written down."""
    found = rows.find(AuditRow, since=since - _SLACK, action=entry.action, model=entry.model)
    return any(_is_same_act(one, entry, same) for one in found)


class _Queue:
    """Entries that neither the ledger nor the disk took, until one does or the process ends."""

    def __init__(self, late: Path) -> None:
        self._late = late
        self._entries: list[tuple[Rows, AuditRow]] = []
        self._guarded = threading.Lock()
        self._thread: threading.Thread | None = None
        atexit.register(self.deliver)

    def add(self, rows: Rows, row: AuditRow) -> None:
        with self._guarded:
            self._entries.append((rows, row))
            if self._thread is None:
                self._thread = threading.Thread(target=self._go_on_trying, name="audit", daemon=True)
                self._thread.start()

    def waiting(self) -> Sequence[AuditRow]:
        with self._guarded:
            return [row for _, row in self._entries]

    def deliver(self) -> None:
        """Write what waits, as far as it is taken. An act that somebody else wrote down is left out."""
        with self._guarded, suppress(OSError, SlipwayError):
            while self._entries:
                rows, row = self._entries[0]
                entry = of_row(row)
                if "run_id" not in row.document or not is_known(rows, entry, same="run_id", since=row.at):
                    rows.save(row)
                del self._entries[0]
                log.warning("in the audit trail now: %s of %s by %s", row.action, row.model, row.who)

    def _go_on_trying(self) -> None:
        while True:
            self.deliver()
            with self._guarded:
                if not self._entries:
                    self._thread = None
                    return
            time.sleep(RETRY_SECONDS)


_SHARED = ("at", "who", "action", "model", "version", "release_id", "reason")


@cache
def _queue_of(late: Path) -> _Queue:
    return _Queue(late)


def _late_rows(late: Path) -> list[AuditRow]:
    found = []
    for path in sorted(late.glob("*.json")):
        with suppress(FileNotFoundError):
            try:
                row = wire.row_from_json(orjson.loads(path.read_bytes()))
            except (ValueError, wire.Malformed):
                log.exception("%s is no entry", path)
                path.replace(path.with_suffix(".unreadable"))
                continue
            found += [row] if isinstance(row, AuditRow) else []
    return found


def _late_path(late: Path, row: AuditRow) -> Path:
    return late / f"{row.id}.json"


def _put_late(late: Path, row: AuditRow) -> bool:
    """Whether the disk took it."""
    try:
        write_file(_late_path(late, row), orjson.dumps(wire.row_to_json(row)))
    except OSError:
        return False
    return True


def _id_of(entry: AuditEntry, same: str) -> str:
    """The same for whoever writes this act down, so that the ledger takes one of them."""
    said = "\n".join(map(str, (entry.action, entry.model, entry.release_id, same, entry.detail[same])))
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def _is_same_act(known: AuditRow, entry: AuditEntry, same: str) -> bool:
    return (
        same in entry.detail
        and known.release_id in (None, entry.release_id)
        and known.document.get(same) == entry.detail[same]
    )

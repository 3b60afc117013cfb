"""Who did what in production, when and why: one line for each act of a person, never changed afterwards.

`<root>/YYYY-MM.jsonl`, by the month of the act in UTC. A line is on the disk before `append` returns, so an
act is written down before it has its effect, and a crash can only leave an act that came to nothing. Only
what takes users away from a version does not wait for its line (`append_or_queue`).
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from heapq import nlargest
from io import FileIO
from itertools import chain
from pathlib import Path

import orjson

from model_store.unwritable import naming, require_room

LONGEST_REASON = 1000
# What an act may need, with much to spare.
ROOM_BYTES = 64 * 1024
# How often a disk that took no line is tried again.
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
    """The files under `root`. Many processes may append at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def append(self, entry: AuditEntry) -> None:
        """Write the entry down; when this returns, it is on the disk, and if this raises, nothing is."""
        with self._month_of(entry) as file:
            _add_line(file, entry)

    def append_once(self, entry: AuditEntry, *, same: str, since: datetime) -> None:
        """Unless there is an entry of this act since then: of the same release or model, with the same `same`
        in its detail. Of several writers at once, one writes."""
        with self._month_of(entry) as file:
            known = self._written(entry.model, since=since - _SLACK)
            if not any(_is_same_act(one, entry, same) for one in known):
                _add_line(file, entry)

    def require_room(self) -> None:
        """Raises `OSError` where `append` would: for acts whose line can only follow their effect."""
        self.root.mkdir(parents=True, exist_ok=True)
        require_room(self.root, ROOM_BYTES)

    def append_or_queue(self, entry: AuditEntry) -> str:
        """Append, or say why not: a full disk keeps no user from stable.

        The log gets the line then. It is among the `entries` of this process, which goes on trying to write
        it until it ends.
        """
        try:
            self.append(entry)
        except OSError as problem:
            log.exception("not in the audit trail: %s", orjson.dumps(asdict(entry)).decode())
            _queue_of(self.root).add(entry)
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
        """Newest first, at most `limit`, from `since` to `until` inclusive. Torn lines are skipped."""
        found = (
            entry
            for entry in chain(self._all(since, until), _queue_of(self.root).waiting())
            if (model is None or entry.model == model)
            and (release_id is None or entry.release_id == release_id)
            and (since is None or entry.at >= since)
            and (until is None or entry.at <= until)
        )
        # Of entries with the same time, the one written last is the newest: hence the number.
        numbered = ((entry.at, number, entry) for number, entry in enumerate(found))
        if limit is not None:
            return [entry for _, _, entry in nlargest(limit, numbered, key=lambda one: one[:2])]
        return [entry for _, _, entry in sorted(numbered, key=lambda one: one[:2], reverse=True)]

    def _written(self, model: str | None, *, since: datetime) -> Iterator[AuditEntry]:
        return (entry for entry in self._all(since, None) if entry.model == model and entry.at >= since)

    @contextmanager
    def _month_of(self, entry: AuditEntry) -> Iterator[FileIO]:
        """The file of the entry's month, for this writer alone."""
        path = self.root / f"{entry.at.astimezone(UTC):%Y-%m}.jsonl"
        with naming(path):
            self.root.mkdir(parents=True, exist_ok=True)
            with path.open("ab+", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield file

    def _all(self, since: datetime | None, until: datetime | None) -> Iterator[AuditEntry]:
        first = f"{since.astimezone(UTC):%Y-%m}" if since else ""
        last = f"{until.astimezone(UTC):%Y-%m}" if until else "9999-99"
        for path in sorted(self.root.glob("*.jsonl")):
            if first <= path.stem <= last:
                with path.open("rb") as file:
                    yield from filter(None, map(_entry, file))


class _Queue:
    """Lines that the disk did not take, in the order of their acts, until it does or the process ends."""

    def __init__(self, root: Path) -> None:
        self._trail = AuditTrail(root)
        self._entries: list[AuditEntry] = []
        self._guarded = threading.Lock()
        self._thread: threading.Thread | None = None
        atexit.register(self.deliver)

    def add(self, entry: AuditEntry) -> None:
        with self._guarded:
            self._entries.append(entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._go_on_trying, name="audit", daemon=True)
                self._thread.start()

    def waiting(self) -> list[AuditEntry]:
        with self._guarded:
            return list(self._entries)

    def deliver(self) -> None:
        """Write what waits, as far as the disk takes it. An act that somebody else wrote down is left out."""
        with self._guarded, suppress(OSError):
            while self._entries:
                entry = self._entries[0]
                self._trail.append_once(entry, same="run_id", since=entry.at)
                del self._entries[0]
                log.warning("in the audit trail now: %s of %s by %s", entry.action, entry.model, entry.who)

    def _go_on_trying(self) -> None:
        while True:
            self.deliver()
            with self._guarded:
                if not self._entries:
                    self._thread = None
                    return
            time.sleep(RETRY_SECONDS)


@cache
def _queue_of(root: Path) -> _Queue:
    return _Queue(root)


def _is_same_act(known: AuditEntry, entry: AuditEntry, same: str) -> bool:
    return (
        same in entry.detail
        and known.action == entry.action
        and known.release_id in (None, entry.release_id)
        and known.detail.get(same) == entry.detail[same]
    )


def _add_line(file: FileIO, entry: AuditEntry) -> None:
    """The whole line or none of it: a disk that is nearly full takes a part of one, and says nothing."""
    line = orjson.dumps(asdict(entry), option=orjson.OPT_APPEND_NEWLINE)
    before = os.fstat(file.fileno()).st_size
    line = line if _ends_whole(file.fileno()) else b"\n" + line
    try:
        if (file.write(line) or 0) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            file.truncate(before)
        raise


def _ends_whole(descriptor: int) -> bool:
    """Whether the last line was finished; what a writer that was killed left stays a line of its own."""
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _entry(line: bytes) -> AuditEntry | None:
    try:
        saved = orjson.loads(line)
        return AuditEntry(**{**saved, "at": datetime.fromisoformat(saved["at"])})
    except (ValueError, KeyError, TypeError):
        return None

"""Who did what in production, when and why: one line for each act of a person, never changed afterwards.

`<root>/YYYY-MM.jsonl`, by the month of the act in UTC. A line is on the disk before `append` returns, so an
act is written down before it has its effect, and a crash can only leave an act that came to nothing. Only
what takes users away from a version does not wait for its line (`append_if_possible`).
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from heapq import nlargest
from pathlib import Path

import orjson

LONGEST_REASON = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
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

    def append(self, entry: Entry) -> None:
        """Write the entry down; when this returns, it is on the disk."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / f"{entry.at.astimezone(UTC):%Y-%m}.jsonl"
        line = orjson.dumps(asdict(entry), option=orjson.OPT_APPEND_NEWLINE)
        with path.open("ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(line if _ends_whole(file.fileno()) else b"\n" + line)
            os.fsync(file.fileno())

    def append_if_possible(self, entry: Entry) -> str:
        """Append, or say why not: a full disk keeps no user from stable, and the log gets the line."""
        try:
            self.append(entry)
        except OSError as problem:
            log.exception("not in the audit trail: %s", orjson.dumps(asdict(entry)).decode())
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
    ) -> list[Entry]:
        """Newest first, at most `limit`, from `since` to `until` inclusive. Torn lines are skipped."""
        found = (
            entry
            for entry in self._all(since, until)
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

    def _all(self, since: datetime | None, until: datetime | None) -> Iterator[Entry]:
        first = f"{since.astimezone(UTC):%Y-%m}" if since else ""
        last = f"{until.astimezone(UTC):%Y-%m}" if until else "9999-99"
        for path in sorted(self.root.glob("*.jsonl")):
            if first <= path.stem <= last:
                with path.open("rb") as file:
                    yield from filter(None, map(_entry, file))


def _ends_whole(descriptor: int) -> bool:
    """Whether the last line was finished; what a writer that was killed left stays a line of its own."""
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _entry(line: bytes) -> Entry | None:
    try:
        saved = orjson.loads(line)
        return Entry(**{**saved, "at": datetime.fromisoformat(saved["at"])})
    except (ValueError, KeyError, TypeError):
        return None

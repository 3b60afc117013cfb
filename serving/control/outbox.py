"""What people are to be told, until they are. Written down first, so that neither a crash nor a receiver that
is down loses it. One file for each message and receiver.

`<outbox>/<id>.<n>.json` waits; `<outbox>/sent/...` was delivered, and is kept a while so that the same
message is not written down again; `<outbox>/given_up/...` could not be delivered for a day.
"""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from model_store.durable import canonical_json, write_file
from model_store.release_spec.notify import Notify

log = logging.getLogger(__name__)

GIVE_UP = timedelta(days=1)
REMEMBER = timedelta(days=7)
FIRST_DELAY = timedelta(seconds=15)
LONGEST_DELAY = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Message:
    """`id` is the same however often the message is written or delivered. `facts` are names and words."""

    id: str
    occasion: str
    model: str
    title: str
    text: str
    at: datetime
    url: str = ""
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """A message to one receiver, and how often it was tried."""

    path: Path
    message: Message
    receiver: Notify
    tries: int
    next_at: datetime


class Outbox:
    """The files under `root`. Many processes may use them at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, message: Message, receivers: Sequence[Notify]) -> list[OutboxEntry]:
        """Write it down for every receiver that wants this occasion; returns what is new."""
        wanted = [(n, to) for n, to in enumerate(receivers) if message.occasion in to.occasions]
        entries = [
            OutboxEntry(self.root / f"{message.id}.{n}.json", message, to, tries=0, next_at=message.at)
            for n, to in wanted
        ]
        return [entry for entry in entries if self._is_new(entry)]

    def due(self, *, at: datetime) -> list[OutboxEntry]:
        """Those to be delivered now, the oldest first."""
        entries = [entry for path in self.root.glob("*.json") if (entry := _read(path))]
        return sorted((one for one in entries if one.next_at <= at), key=lambda entry: entry.message.at)

    @contextmanager
    def taken(self, entry: OutboxEntry) -> Iterator[bool]:
        """Whether this process may deliver it now: it is still there, and nobody else is at it."""
        lock = self.root / "locks" / entry.path.stem
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield entry.path.exists()
            if not entry.path.exists():
                lock.unlink(missing_ok=True)

    def delivered(self, entry: OutboxEntry) -> None:
        self._move(entry, "sent")

    def failed(self, entry: OutboxEntry, *, at: datetime) -> bool:
        """Try again later. False: it was tried for a day, and is given up."""
        if at - entry.message.at > GIVE_UP:
            self._move(entry, "given_up")
            return False
        # Bounded, because a timedelta overflows long before a day of tries is over.
        delay = min(FIRST_DELAY * 2 ** min(entry.tries, 16), LONGEST_DELAY)
        _write(replace(entry, tries=entry.tries + 1, next_at=at + delay))
        return True

    def sweep(self, *, at: datetime) -> None:
        """Forget what was delivered, or given up, a week ago."""
        for folder in ("sent", "given_up"):
            for path in (self.root / folder).glob("*.json"):
                if at.timestamp() - path.stat().st_mtime > REMEMBER.total_seconds():
                    path.unlink(missing_ok=True)

    def _is_new(self, entry: OutboxEntry) -> bool:
        # Here, because DAG files import this module, and that one needs numpy.
        from serving.control.releases import write_new_file

        was = [self.root / folder / entry.path.name for folder in ("sent", "given_up")]
        return not any(path.exists() for path in was) and write_new_file(entry.path, _to_json(entry))

    def _move(self, entry: OutboxEntry, folder: str) -> None:
        target = self.root / folder
        target.mkdir(parents=True, exist_ok=True)
        entry.path.replace(target / entry.path.name)
        (target / entry.path.name).touch()


def _write(entry: OutboxEntry) -> None:
    write_file(entry.path, _to_json(entry))


def _to_json(entry: OutboxEntry) -> bytes:
    return canonical_json(
        {
            "message": {**asdict(entry.message), "at": entry.message.at.isoformat()},
            "receiver": entry.receiver.model_dump(mode="json"),
            "tries": entry.tries,
            "next_at": entry.next_at.isoformat(),
        }
    )


def _read(path: Path) -> OutboxEntry | None:
    """None if somebody else has just delivered it, or it is none: one bad file must not stop all others."""
    try:
        saved = json.loads(path.read_bytes())
        message = {**saved["message"], "at": datetime.fromisoformat(saved["message"]["at"])}
        receiver, next_at = Notify.model_validate(saved["receiver"]), datetime.fromisoformat(saved["next_at"])
        return OutboxEntry(path, Message(**message), receiver, saved["tries"], next_at)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        log.exception("%s is no message", path)
        return None

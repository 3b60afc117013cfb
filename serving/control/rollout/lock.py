"""One release at a time per service; one may wait, and a newer one takes its place.

`<journal>/<service>/lock.json` names the holder and the waiting release. It is asked for again and again
(a task that polls, a task that is retried), always with the same answer, and no process need stay alive to
hold it. Newer means asked for later: `requested_at`, then the release id.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import orjson

from model_store.durable import write_file


class LockOutcome(StrEnum):
    """What an attempt to take the lock came to. SUPERSEDED is final: a newer release is on its way."""

    HELD = "held"
    WAITING = "waiting"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """Who wants the lock, since when."""

    requested_at: datetime
    release_id: str


@dataclass(frozen=True, slots=True)
class LockState:
    """The lock as it stands."""

    holder: Claim | None = None
    waiting: Claim | None = None


class ReleaseLock:
    """The locks under `root`, the journal's folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def acquire(self, service: str, claim: Claim) -> LockOutcome:
        """Take the lock, or a place in front of it. Repeating it is how one waits."""
        with self._exclusive(service):
            after, standing = _acquired(self.read(service), claim)
            self._write(service, after)
            return standing

    def release(self, service: str, release_id: str) -> LockState:
        """Give up the lock or the place in front of it; neither is no error."""
        with self._exclusive(service):
            before = self.read(service)
            after = LockState(_without(before.holder, release_id), _without(before.waiting, release_id))
            self._write(service, after)
            return after

    def read(self, service: str) -> LockState:
        """Who holds it and who waits."""
        path = self._path(service)
        if not path.exists():
            return LockState()
        saved = orjson.loads(path.read_bytes())
        return LockState(_claim(saved["holder"]), _claim(saved["waiting"]))

    def _write(self, service: str, state: LockState) -> None:
        if state != self.read(service):
            write_file(self._path(service), orjson.dumps(asdict(state), option=orjson.OPT_INDENT_2))

    def _path(self, service: str) -> Path:
        return self._root / service / "lock.json"

    @contextmanager
    def _exclusive(self, service: str) -> Iterator[None]:
        (self._root / service).mkdir(parents=True, exist_ok=True)
        with (self._root / service / ".lock.json.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _acquired(state: LockState, claim: Claim) -> tuple[LockState, LockOutcome]:
    if state.holder == claim:
        return state, LockOutcome.HELD
    if any(other and other > claim for other in (state.holder, state.waiting)):
        return LockState(state.holder, _without(state.waiting, claim.release_id)), LockOutcome.SUPERSEDED
    if state.holder is None:
        return LockState(holder=claim), LockOutcome.HELD
    return LockState(state.holder, waiting=claim), LockOutcome.WAITING


def _without(claim: Claim | None, release_id: str) -> Claim | None:
    return None if claim and claim.release_id == release_id else claim


def _claim(saved: dict[str, str] | None) -> Claim | None:
    return Claim(datetime.fromisoformat(saved["requested_at"]), saved["release_id"]) if saved else None

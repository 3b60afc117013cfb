"""A place that takes no more data: which, why, and what to do about it.

What writes lets the system's own `OSError` through, with the path in it (`naming`), because who moves traffic
goes on in spite of it. Where an error reaches a person (web, command line, a task's log) it becomes an
`Unwritable`, here, so that all of them say the same.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_store.errors import Retryable


class Unwritable(Retryable):
    """Nothing can be written there now. What was asked for may be done in part: ask again."""


class DiskFull(Unwritable):
    """There is no space there, or none that this account may use."""


_FULL = {
    errno.ENOSPC: ("nothing can be written to {}: its disk is full", "make room there (df -h)"),
    errno.EDQUOT: (
        "nothing can be written to {}: this account's quota is used up",
        "make room there (quota)",
    ),
}
_BARRED = {
    errno.EROFS: (
        "nothing can be written to {}: it is mounted read-only",
        "mount it writable (after a disk error the kernel makes it read-only: see dmesg)",
    ),
    errno.EACCES: ("this account may not use {}", "let the account that runs Slipway read and write there"),
    errno.EPERM: ("this account may not use {}", "let the account that runs Slipway read and write there"),
    errno.EIO: ("the disk of {} gives an input/output error", "look at the disk (dmesg)"),
}
_OF_SQLITE = {
    "SQLITE_FULL": errno.ENOSPC,
    # The index of the write-ahead log, which a new connection makes.
    "SQLITE_IOERR_SHMSIZE": errno.ENOSPC,
    "SQLITE_READONLY": errno.EROFS,
    "SQLITE_IOERR": errno.EIO,
}


def unwritable(error: BaseException, database: str = "the database") -> Unwritable | None:
    """The error in a person's words; None if it is not of this kind.

    SQLite says nothing of its file, so `database` names it. An error that wraps another (`orig`, as
    SQLAlchemy's do) is what it wraps.
    """
    error = getattr(error, "orig", None) or error
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", "")
        known = _OF_SQLITE.get(name) or _OF_SQLITE.get("_".join(name.split("_")[:2]))
        return _explained(known, database)
    if isinstance(error, OSError):
        return _explained(error.errno, _folder_of(error) or "a folder of Slipway's")
    return None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of writing `path` name it: the system names nothing, or a temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno:
            error.filename = str(path)
        raise


def require_room(folder: Path, size_bytes: int) -> None:
    """Raises the `OSError` that writing so much into the folder would meet, as far as can be told before."""
    disk = os.statvfs(folder)
    found = 0
    if disk.f_flag & os.ST_RDONLY:
        found = errno.EROFS
    elif disk.f_bavail * disk.f_frsize < size_bytes:
        found = errno.ENOSPC
    elif not os.access(folder, os.W_OK):
        found = errno.EACCES
    if found:
        raise OSError(found, os.strerror(found), str(folder / "anything"))


def _folder_of(error: OSError) -> str:
    return str(Path(os.fsdecode(error.filename)).parent) if error.filename else ""


def _explained(number: int | None, place: str) -> Unwritable | None:
    for kind, known in ((DiskFull, _FULL), (Unwritable, _BARRED)):
        if number in known:
            problem, remedy = known[number]
            return kind(problem.format(place), remedy=f"{remedy}, and ask again")
    return None

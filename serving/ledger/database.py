"""Transactions on SQLite and PostgreSQL that end: whole, not at all, or with `Unreachable` within a bound.

SQLite: write-ahead log, one writer at a time (`BEGIN IMMEDIATE`), readers never wait. PostgreSQL: READ
COMMITTED, rows locked where they are decided on.

What is written `durably` is on the disk when the transaction ends, also of a power cut. What is not is there
for everybody, and survives any process, but a power cut may lose the last of it (SQLite `synchronous=NORMAL`,
PostgreSQL `synchronous_commit=off`): about a hundred times cheaper, and never a hole in the middle.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from model_store.errors import Permanent
from model_store.unwritable import require_room, unwritable
from serving.ledger.base import Damaged, Unreachable

PATIENCE_SECONDS = 3.0
_AGAIN_SECONDS = 0.02
# What an act may need, with much to spare.
_ROOM_BYTES = 256 * 1024
_WRITES, _DURABLE = "slipway_writes", "slipway_durable"
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_PASSING = (
    psycopg.OperationalError,
    # Of a server that follows another one: whoever takes over is written to.
    errors.ReadOnlySqlTransaction,
    OSError,
)


class Database:
    """One database by its URL (`sqlite:///<path>`, `postgresql://...`). Constructing it opens nothing."""

    def __init__(self, url: str, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self.url = _url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        make = _sqlite if self.is_sqlite else _postgresql
        self.engine = make(self.url, patience_seconds)
        self._patience_seconds = patience_seconds
        # SQLite before 3.51.3 may damage a database when two connections write and checkpoint in the same
        # moment (sqlite.org/wal.html, "The WAL-Reset Bug"): those of one process never do.
        self._one_writer = threading.Lock() if self.is_sqlite else None

    @property
    def path(self) -> Path:
        """SQLite's file."""
        return Path(self.url.database or "")

    @property
    def words(self) -> str:
        """Names it without its password."""
        return str(self.path) if self.is_sqlite else self.url.render_as_string(hide_password=True)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Everything read inside is as of one statement (PostgreSQL) or one moment (SQLite)."""
        with self._explained(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, *, durably: bool = True) -> Iterator[Connection]:
        """A transaction: all of it is written when the block ends, nothing if it raises."""
        options: dict[str, Any] = {_WRITES: True, _DURABLE: durably}
        with self._explained(), self._alone(), self.engine.connect() as connection:
            connection = connection.execution_options(**options)
            with connection.begin():
                yield connection

    def require_room(self) -> None:
        """Raises `Unwritable` where SQLite's disk takes no more. PostgreSQL says so when it is written to."""
        if self.is_sqlite:
            with self._explained():
                require_room(self.path.parent, _ROOM_BYTES)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._one_writer is None:
            yield
            return
        if not self._one_writer.acquire(timeout=self._patience_seconds):
            raise _unreachable(self.words, "another thread has been writing all the time")
        try:
            yield
        finally:
            self._one_writer.release()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """The driver's errors in a person's words, where they say something of the database and not of us."""
        try:
            yield
        except (DBAPIError, PoolTimeout, sqlite3.Error, psycopg.Error, OSError) as error:
            if known := explained(error, self.words):
                raise known from error
            raise


def explained(error: Exception, where: str) -> Exception | None:
    """None if it is a mistake of ours."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, OSError) and (known := unwritable(cause)):
        return known
    if isinstance(error, PoolTimeout):
        return _unreachable(where, "all connections are in use")
    if isinstance(cause, sqlite3.Error):
        name = getattr(cause, "sqlite_errorname", "")
        if name.startswith(_DAMAGED):
            return _damaged(where, cause)
        return unwritable(cause, where) or (
            _unreachable(where, str(cause)) if isinstance(cause, sqlite3.OperationalError) else None
        )
    if isinstance(cause, errors.DataCorrupted | errors.IndexCorrupted):
        return _damaged(where, cause)
    # Also of a transaction that the server ended, because its process was stopped in the middle of it.
    is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if is_lost or isinstance(cause, _PASSING):
        return _unreachable(where, str(cause))
    return None


def _unreachable(where: str, why: str) -> Unreachable:
    return Unreachable(
        f"the ledger {where} cannot be used now: {' '.join(why.split())}",
        remedy="it is tried again; if it stays so, look whether the database is up and who holds it",
        delay_seconds=1,
    )


def _damaged(where: str, why: Exception) -> Damaged:
    return Damaged(f"the ledger {where} is damaged: {why}", remedy="restore the last backup (docs/ledger.md)")


def _url(said: str) -> URL:
    try:
        url = make_url(said)
    except ArgumentError:
        url = None
    if url is None or url.get_backend_name() not in ("sqlite", "postgresql"):
        raise Permanent(
            "the ledger's address is neither SQLite's nor PostgreSQL's",
            remedy="give sqlite:////path/to/ledger.db or postgresql://user@host/name (SLIPWAY_DATABASE_URL)",
        )
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise Permanent(
            "the ledger needs a file: one in memory is lost with its process",
            remedy="give sqlite:////path/to/ledger.db",
        )
    return url


def _sqlite(url: URL, patience_seconds: float) -> Engine:
    path = Path(url.database or "").absolute()

    def connect() -> sqlite3.Connection:
        # Never makes the file: one that was taken away must not come back empty.
        return sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw",
            uri=True,
            timeout=patience_seconds,
            isolation_level=None,
            check_same_thread=False,
        )

    engine = create_engine(
        "sqlite://", creator=connect, pool_size=4, pool_timeout=patience_seconds, poolclass=QueuePool
    )

    @event.listens_for(engine, "connect")
    def opened(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
        _use_wal(connection, patience_seconds)
        entry.info["file"] = _file(path)

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        _require_same_file(connection, path)
        options = connection.get_execution_options()
        synchronous = "FULL" if options.get(_DURABLE, True) else "NORMAL"
        if connection.info.get("synchronous") != synchronous:
            connection.exec_driver_sql(f"PRAGMA synchronous={synchronous}")
            connection.info["synchronous"] = synchronous
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(_WRITES) else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection, patience_seconds: float) -> None:
    """A file keeps it. One that was restored has to be told again, and then SQLite waits for nobody."""
    until = time.monotonic() + patience_seconds
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(_AGAIN_SECONDS)


def _require_same_file(connection: Connection, path: Path) -> None:
    """SQLite would go on writing into a file that has no name any more."""
    if connection.info["file"] != _file(path):
        connection.invalidate()
        raise _unreachable(str(path), "its file was removed, or another one took its place")


def _file(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - before every transaction
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _postgresql(url: URL, patience_seconds: float) -> Engine:
    asked = url.set(drivername="postgresql").render_as_string(hide_password=False)

    class Bounded(psycopg.Connection[Any]):
        """A server that is stopped, or a network that swallows everything, answers nothing at all: neither
        its own time limits nor the kernel's help then."""

        def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
            # The server's own limits are shorter, so that it mostly is the one to say what is wrong.
            limit = patience_seconds + 1 if timeout is None else timeout
            try:
                return super().wait(gen, interval, limit)
            except errors._WaitTimeout as problem:
                self.pgconn.finish()
                raise psycopg.OperationalError(f"no answer for {limit:g} s") from problem

    def connect() -> psycopg.Connection[Any]:
        return Bounded.connect(asked, connect_timeout=max(2, round(patience_seconds)))

    engine = create_engine(
        "postgresql+psycopg://",
        creator=connect,
        pool_size=4,
        pool_timeout=patience_seconds,
        pool_use_lifo=True,
        isolation_level="READ COMMITTED",
    )
    milliseconds = round(patience_seconds * 1000)

    @event.listens_for(engine, "connect")
    def opened(connection: psycopg.Connection[Any], entry: ConnectionPoolEntry) -> None:
        # The last one frees what a process holds that was stopped in the middle of a transaction.
        for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(f"SET {name} = {milliseconds}")
        connection.commit()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        if not connection.get_execution_options().get(_DURABLE, True):
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")

    return engine

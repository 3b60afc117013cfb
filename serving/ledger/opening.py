"""Opens a ledger: makes its tables, or brings them from an older Slipway's form to this one's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from model_store.durable import staging
from model_store.errors import Permanent
from serving.ledger.backup import back_up
from serving.ledger.base import URL_VARIABLE, NewerLedger
from serving.ledger.database import PATIENCE_SECONDS, Database
from serving.ledger.migrations import NEWEST, VERSIONS
from serving.ledger.sql import Clock, SqlLedger, database_clock

if TYPE_CHECKING:
    from alembic.config import Config

FILE = "ledger.db"
# Two processes that open a new ledger at once: the lock's number is any that nobody else uses.
_LOCK = 7_126_035_512
# How long one statement of an upgrade may take, and how long to wait while another process upgrades.
_UPGRADE_SECONDS = 600.0
_FOLDER = Path(__file__).parent / "migrations"


def url_of(root: Path, environ: Mapping[str, str]) -> str:
    """`SLIPWAY_DATABASE_URL`, or a file in the home's `root`."""
    return environ.get(URL_VARIABLE) or f"sqlite:///{root / FILE}"


def open_ledger(
    url: str, *, patience_seconds: float = PATIENCE_SECONDS, clock: Clock = database_clock
) -> SqlLedger:
    """The ledger at this URL, with the tables that this Slipway knows. Of several who open it at once, one
    makes them. An older SQLite ledger is copied beside itself before it is changed.

    Raises `NewerLedger`, `Unreachable`, and `Permanent` for a URL that is none.
    """
    database = Database(url, patience_seconds=patience_seconds)
    with _closing(database):
        if database.is_sqlite:
            _make_file(database)
        if version_of(database) != NEWEST:
            _upgrade(Database(url, patience_seconds=_UPGRADE_SECONDS))
    return SqlLedger(database, clock=clock)


def version_of(database: Database) -> str | None:
    """Which form its tables have, None if there are none. Raises `NewerLedger`."""
    with database.reading() as connection:
        version = _version(connection)
    if version is not None and version not in VERSIONS:
        raise NewerLedger(
            f"the ledger {database.words} has tables of version {version}, and this Slipway knows "
            f"{', '.join(VERSIONS)}",
            remedy="run the Slipway that changed it, or restore the backup that was made before "
            "(docs/ledger.md); nothing was changed",
        )
    return version


def migrations(connection: Connection) -> Config:
    """Alembic's configuration, on a transaction that is open already."""
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _upgrade(database: Database) -> None:
    from alembic import command

    with _closing(database), _alone(database) as connection:
        before = _version(connection)
        if before == NEWEST:
            return
        if before is not None and database.is_sqlite:
            # It reads what is committed: this transaction has written nothing yet.
            back_up(database, database.path.with_name(f"{database.path.name}.before-{NEWEST}"))
        command.upgrade(migrations(connection), "head")


@contextmanager
def _closing(database: Database) -> Iterator[None]:
    try:
        yield
    finally:
        database.engine.dispose()


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    with database.writing() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        yield connection


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def _make_file(database: Database) -> None:
    """An empty one, unless there is one. Raises `Permanent` where there is no folder to make it in.

    Made aside: of several who do so at once none meets the others' half-made file.
    """
    path = database.path
    if path.exists():
        return
    try:
        with staging(path.parent) as folder:
            made = folder / path.name
            made.touch(mode=0o600)
            with closing(sqlite3.connect(made)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            with suppress(FileExistsError):
                path.hardlink_to(made)
    except (OSError, sqlite3.Error) as problem:
        raise Permanent(
            f"the ledger {path} cannot be made: {problem}",
            remedy="give a folder on a local disk where this account may write",
        ) from problem

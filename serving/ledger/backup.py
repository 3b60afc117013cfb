"""A copy of a ledger, whole and as of one moment, while others go on writing.

SQLite: its online backup. PostgreSQL: `pg_dump`, which has to be installed (docs/ledger.md has the
commands for both). A copy appears under its name when it is complete and was read through.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from model_store.durable import staging, take_place
from model_store.errors import Permanent
from serving.ledger.base import Damaged
from serving.ledger.database import Database

_LONGEST_DUMP_SECONDS = 3600


def back_up(database: Database, target: Path) -> None:
    """Write the database into the file `target`, in place of what is there."""
    with staging(target.parent) as folder:
        made = folder / target.name
        (_copy if database.is_sqlite else _dump)(database, made)
        with made.open("rb") as file:
            os.fsync(file.fileno())
        take_place(made, target)


def restore_sqlite(backup: Path, path: Path) -> None:
    """Put a backup where the ledger is to be. No process may have it open.

    Raises `Permanent` where there is a ledger: move it away first, with its `-wal` and `-shm` files.
    """
    left = [each for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")) if each.exists()]
    if left:
        raise Permanent(
            f"there is a ledger already: {', '.join(map(str, left))}",
            remedy="stop the controller, move these files away, and restore again",
        )
    with staging(path.parent) as folder:
        made = folder / path.name
        with closing(sqlite3.connect(f"file:{backup}?mode=ro", uri=True)) as source:
            _copied(source, made)
        take_place(made, path)


def _copy(database: Database, made: Path) -> None:
    with closing(sqlite3.connect(f"file:{database.path}?mode=ro", uri=True)) as source:
        _copied(source, made)


def _copied(source: sqlite3.Connection, made: Path) -> None:
    with closing(sqlite3.connect(made)) as copy:
        source.backup(copy)
        # One file, with nothing beside it that a person could forget to keep.
        copy.execute("PRAGMA journal_mode=DELETE")
        found = copy.execute("PRAGMA integrity_check").fetchone()[0]
    if found != "ok":
        raise Damaged(f"the copy {made.name} is not whole: {found}", remedy="use another backup")


def _dump(database: Database, made: Path) -> None:
    # By its environment, because everybody on the machine sees a command's words.
    secret = {"PGPASSWORD": str(database.url.password)} if database.url.password else {}
    address = database.url.set(drivername="postgresql", password=None).render_as_string()
    command = ["pg_dump", "--format=custom", "--no-owner", f"--file={made}", f"--dbname={address}"]
    try:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            timeout=_LONGEST_DUMP_SECONDS,
            env={**os.environ, **secret},
        )
    except FileNotFoundError as problem:
        raise Permanent(
            "pg_dump is not installed here", remedy="apt-get install postgresql-client"
        ) from problem
    except subprocess.CalledProcessError as problem:
        raise Permanent(
            f"pg_dump failed: {problem.stderr.strip()}", remedy="mend what it says, and try again"
        ) from problem

"""Ledgers for tests: tables are made once, and copied."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from serving.ledger.opening import open_ledger
from tests import postgresql


@pytest.fixture(scope="session")
def new_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger in a file in which nothing was written yet."""
    path = tmp_path_factory.mktemp("ledger") / "new.db"
    made = open_ledger(f"sqlite:///{path}")
    with made.database.engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    made.close()
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, new_sqlite: Path) -> str:
    shutil.copy(new_sqlite, tmp_path / "ledger.db")
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture(scope="session")
def server() -> Iterator[postgresql.Server]:
    with postgresql.server() as started:
        open_ledger(started.database()).close()  # test_0, which the others are copies of
        yield started


@pytest.fixture
def postgresql_url(server: postgresql.Server) -> str:
    return server.database(like="test_0")


@pytest.fixture
def by_clock(url: str) -> Iterator[Callable[[Callable[[], datetime]], object]]:
    """Opens the ledger at `url` by a clock of the test's own."""
    opened = []

    def open_by(clock: Callable[[], datetime]) -> object:
        opened.append(open_ledger(url, clock=lambda _: clock()))
        return opened[-1]

    yield open_by
    for ledger in opened:
        ledger.close()

"""A place that takes no more data is told by name, with the reason and the remedy."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model_store import signing
from model_store.durable import write_file
from model_store.storage.store import Store
from model_store.unwritable import DiskFull, Unwritable, naming, unwritable
from serving.credentials import credentials_of, write_secret
from serving.home import Home, Ports
from tests.mounts import SmallDisk, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def caught(act: Callable[[], object]) -> Unwritable:
    with pytest.raises(OSError, match=r"\[Errno") as failed:
        act()
    why = unwritable(failed.value)
    assert why
    return why


WRITERS: dict[str, Callable[[Path], object]] = {
    "a file": lambda root: write_file(root / "a.json", b"x"),
    "a secret": lambda root: write_secret(root / "secret", "x"),
    "credentials": lambda root: credentials_of(Home(root, Ports())),
    "keys of bundles": lambda root: signing.rotate(root / "keys.json"),
    "an artifact": lambda root: Store(root).put_bytes(b"x" * 5000),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_meets_a_full_disk_names_it(disk: SmallDisk, name: str) -> None:
    disk.fill()
    why = caught(lambda: WRITERS[name](disk.root))
    assert isinstance(why, DiskFull)
    assert why.problem.startswith(f"nothing can be written to {disk.root}")
    assert why.problem.endswith(": its disk is full")
    assert [path.name for path in disk.root.iterdir() if path.is_file()] == [".filling"]


def test_a_read_only_disk_is_none_that_is_full(disk: SmallDisk) -> None:
    disk.remount("ro")
    why = caught(lambda: write_file(disk.root / "a.json", b"x"))
    assert not isinstance(why, DiskFull)
    assert why.problem == f"nothing can be written to {disk.root}: it is mounted read-only"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EDQUOT, "nothing can be written to /d: this account's quota is used up"),
        (errno.EACCES, "this account may not use /d"),
        (errno.EIO, "the disk of /d gives an input/output error"),
    ],
)
def test_each_reason_has_its_words(number: int, words: str) -> None:
    def fail() -> None:
        with naming(Path("/d/file")):
            raise OSError(number, os.strerror(number))

    assert caught(fail).problem == words


def test_a_database_that_is_full_or_read_only_is_named_by_who_asks(tmp_path: Path, disk: SmallDisk) -> None:
    database = sqlite3.connect(disk.root / "a.db")
    database.execute("CREATE TABLE t (x)")
    database.commit()
    disk.fill()
    with pytest.raises(sqlite3.OperationalError) as full, database:
        database.execute("INSERT INTO t VALUES (?)", ("x" * 100_000,))
    why = unwritable(full.value, database="Airflow's database")
    database.close()
    assert isinstance(why, DiskFull)
    assert why.problem == "nothing can be written to Airflow's database: its disk is full"


@pytest.mark.parametrize("error", [ValueError("x"), FileNotFoundError(2, "x"), sqlite3.OperationalError("x")])
def test_any_other_error_is_not_of_this_kind(error: Exception) -> None:
    assert unwritable(error) is None

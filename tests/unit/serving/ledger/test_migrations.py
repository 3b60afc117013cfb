"""From nothing, and from every form that was released: `schema_<version>.<database>.sql` is a ledger of that
form, with a row in each table. For a new version: write the file of the one before, and add it to `OLDER`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from model_store.errors import Permanent
from serving.ledger.base import NewerLedger
from serving.ledger.migrations import NEWEST, VERSIONS
from serving.ledger.opening import migrations, open_ledger, url_of
from serving.ledger.rows import KINDS, RolloutRow, searched
from serving.ledger.schema import METADATA, TABLES
from tests.contract.ledger_process import rollout, whole_change

FOLDER = Path(__file__).parent
OLDER = ("0001",)


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(backend: str, request: pytest.FixtureRequest) -> str:
    """Of a ledger with today's tables."""
    return str(request.getfixturevalue(f"{backend}_url"))


@pytest.fixture
def of_version(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Makes a ledger of an older form, and gives its URL."""

    def make(version: str) -> str:
        if backend == "postgresql":
            script = (FOLDER / f"schema_{version}.postgresql.sql").read_text()
            made: str = request.getfixturevalue("server").database()
            with psycopg.connect(made, autocommit=True) as server:
                server.execute(script.encode())
            return made
        return _old_sqlite(tmp_path / "old.db", version)

    return make


def _old_sqlite(path: Path, version: str) -> str:
    connection = sqlite3.connect(path)
    connection.executescript((FOLDER / f"schema_{version}.sqlite.sql").read_text())
    connection.close()
    return f"sqlite:///{path}"


def test_the_tables_that_versions_make_are_those_that_are_used(url: str) -> None:
    ledger = open_ledger(url)
    with ledger.database.reading() as connection:
        options = {"compare_type": True, "include_object": _is_not_alembics}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), METADATA) == []
    ledger.close()


def _is_not_alembics(thing: object, name: str | None, kind: str, *_: object) -> bool:
    return not (kind == "table" and name == "alembic_version")


def test_every_row_is_a_table_s() -> None:
    assert set(TABLES) == set(KINDS)
    for kind, table in TABLES.items():
        assert {column.name for column in table.columns} - {"document", "hash"} == set(searched(kind))


def test_every_version_is_known_and_the_last_is_the_newest(url: str) -> None:
    ledger = open_ledger(url)
    with ledger.database.reading() as connection:
        scripts = ScriptDirectory.from_config(migrations(connection))
        assert tuple(one.revision for one in scripts.walk_revisions())[::-1] == VERSIONS
        assert scripts.get_current_head() == NEWEST
    ledger.close()


@pytest.mark.parametrize("version", OLDER)
def test_a_ledger_of_an_older_form_is_read_and_written(
    of_version: Callable[[str], str], version: str
) -> None:
    ledger = open_ledger(of_version(version))
    for kind in KINDS:
        assert ledger.find(kind), kind
    before = ledger.verify_audit()
    assert before.number == 1
    ledger.save(*whole_change("new"))
    ledger.save(ledger.get(RolloutRow, "old"))
    assert ledger.verify_audit(before).number == 2
    ledger.close()


def test_an_older_ledger_in_a_file_is_copied_before_it_is_changed(tmp_path: Path) -> None:
    open_ledger(_old_sqlite(tmp_path / "old.db", OLDER[0])).close()
    copy = sqlite3.connect(tmp_path / f"old.db.before-{NEWEST}")
    assert copy.execute("SELECT release_id FROM rollouts").fetchall() == [("old",)]
    copy.close()


def test_a_ledger_of_a_newer_form_is_refused_with_the_remedy_and_left_as_it_is(url: str) -> None:
    ledger = open_ledger(url)
    ledger.save(rollout("old"))
    with ledger.database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")
    with pytest.raises(NewerLedger, match=r"(?s)0999.*knows 0001.*remedy.*backup"):
        open_ledger(url)
    with ledger.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "0999"
        assert connection.exec_driver_sql("SELECT count(*) FROM rollouts").scalar() == 1
    ledger.close()


def test_going_back_to_an_older_form_is_refused_and_says_what_to_do(url: str) -> None:
    ledger = open_ledger(url)
    with pytest.raises(Permanent, match=r"(?s)does not go back.*backup"), ledger.database.writing() as on:
        command.downgrade(migrations(on), "base")
    assert ledger.find(RolloutRow) == []
    ledger.close()


def test_tables_that_could_not_all_be_made_are_not_there(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = (
        f"sqlite:///{tmp_path / 'new.db'}"
        if backend == "sqlite"
        else request.getfixturevalue("server").database()
    )
    with monkeypatch.context() as patched:
        patched.setattr("alembic.op.bulk_insert", _fail)
        with pytest.raises(ZeroDivisionError):
            open_ledger(url)
    ledger = open_ledger(url)
    with ledger.database.reading() as connection:
        assert inspect(connection).has_table("rollouts")
    assert ledger.verify_audit().number == 0
    ledger.close()


def _fail(*_: object) -> None:
    raise ZeroDivisionError


def test_where_the_ledger_is_follows_from_the_environment() -> None:
    assert url_of(Path("/home"), {}) == "sqlite:////home/ledger.db"
    assert url_of(Path("/home"), {"SLIPWAY_DATABASE_URL": "postgresql://x/y"}) == "postgresql://x/y"


@pytest.mark.parametrize("wrong", ["mysql://x/y", "ledger.db", "sqlite://", "sqlite:///:memory:", ""])
def test_an_address_that_is_none_says_what_one_looks_like(wrong: str) -> None:
    with pytest.raises(Permanent, match="sqlite:///"):
        open_ledger(wrong)

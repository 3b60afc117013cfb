"""The ledger's rows as other processes have them: over the controller's port, from a real database."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from serving.cli.app import app
from serving.control.controller import api
from serving.control.controller.server import ControllerServer
from serving.control.controller_link import ControllerDown
from serving.control.rows_client import RowsClient
from serving.credentials import controller_token
from serving.home import Home, Ports
from serving.ledger import wire
from serving.ledger.base import Once, StaleGeneration, Unknown, UnknownField
from serving.ledger.opening import open_ledger
from serving.ledger.rows import (
    AttemptRow,
    AuditRow,
    FreezeRow,
    MessageRow,
    NoteRow,
    ReleaseRecord,
    RolloutRow,
    Unstorable,
)
from tests import postgresql
from tests.unit.serving.gateway_process import free_ports

NOW = datetime(2026, 11, 30, 20, 0, 0, 123456, tzinfo=UTC)
NOTE = NoteRow(
    id="fraud/hold", model="fraud", kind="hold", at=NOW, document={"why": "né", "n": [1, 2.5, None]}
)


class Port:
    """A controller's port on a ledger, which a test may take away."""

    def __init__(self, root: Path, url: str = "") -> None:
        self.home = Home(root, replace(Ports(), controller=free_ports(1)[0]))
        self.ledger = open_ledger(url or f"sqlite:///{root / 'ledger.db'}")
        self.rows = RowsClient(self.home)
        self._server: ControllerServer | None = None

    def start(self) -> None:
        nobody: Any = None
        token = controller_token(self.home)
        app = api.build(
            nobody,
            nobody,
            self.ledger,
            nobody,
            token=token,
            find_problem=lambda: "",
            is_alive=lambda: True,
            targets=list,
        )
        self._server = ControllerServer(app, self.home.ports.controller).start()

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server = None


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.Server]:
    with postgresql.server() as started:
        yield started


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def port(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Port]:
    is_sqlite = request.param == "SQLite"
    made = Port(tmp_path, "" if is_sqlite else request.getfixturevalue("server").database())
    made.start()
    yield made
    made.stop()
    made.ledger.close()


def test_rows_come_back_as_they_were_sent_and_as_the_ledger_has_them(port: Port) -> None:
    (saved,) = port.rows.save(NOTE)
    assert saved == replace(NOTE, generation=1) == port.rows.get(NoteRow, "fraud/hold")
    assert port.rows.find(NoteRow, model="fraud") == port.ledger.find(NoteRow) == [saved]
    entry = AuditRow(at=NOW, who="ada", action="freeze", document={"via": "api"})
    (written,) = port.rows.save(entry)
    assert port.rows.find(AuditRow, who="ada", newest=1) == [written]
    release = ReleaseRecord(id="a-v1-x", model="a", version=1, requested_at=NOW, requested_by="ada")
    assert (port.rows.create(release), port.rows.create(release)) == (True, False)
    assert port.rows.find(ReleaseRecord, since=NOW + timedelta(seconds=1)) == []
    assert port.rows.find(ReleaseRecord, id=["a-v1-x", "other"])[0].model == "a"
    assert port.rows.find(FreezeRow, model=None) == []


def test_a_change_decided_on_an_older_generation_is_refused_as_the_ledger_does(port: Port) -> None:
    (saved,) = port.rows.save(NOTE)
    port.rows.save(saved)
    with pytest.raises(StaleGeneration, match="is at generation 2") as refused:
        port.rows.save(saved)
    assert refused.value.delay_seconds == 0
    # All of it or nothing.
    other = replace(NOTE, id="other/hold", model="other")
    with pytest.raises(StaleGeneration):
        port.rows.save(other, saved)
    assert port.rows.find(NoteRow, model="other") == []


def test_of_several_processes_that_claim_one_version_one_gets_it(port: Port) -> None:
    def claim(number: int) -> bool:
        row = AttemptRow(id="fraud/v3", model="fraud", version=3, run_id=f"run-{number}", at=NOW)
        return RowsClient(port.home).create(row)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(claim, range(8))) == [False] * 7 + [True]


def test_an_entry_or_a_letter_sent_twice_is_there_once(port: Port) -> None:
    entry = AuditRow(id="release/run-1", at=NOW, who="ada", action="release")
    letter = MessageRow(id="m.0", model="fraud", at=NOW, next_at=NOW)
    for _ in range(2):
        port.rows.save(entry, Once(letter))
    assert len(port.rows.find(AuditRow)) == len(port.rows.find(MessageRow)) == 1
    assert [one.id for one in port.rows.claim(seconds=60, limit=10)] == ["m.0"]
    assert port.rows.claim(seconds=60, limit=10) == []


def test_several_questions_are_one_request(port: Port) -> None:
    port.rows.save(NOTE, AuditRow(at=NOW, who="ada", action="hold"))
    notes, entries, none = port.rows.ask(
        wire.Query(NoteRow), wire.Query(AuditRow, newest=1), wire.Query(FreezeRow, equal={"model": "fraud"})
    )
    assert (len(notes), len(entries), none) == (1, 1, [])


def test_what_moves_traffic_is_read_and_not_written(port: Port) -> None:
    row = RolloutRow(
        release_id="r", service="s", version=1, phase="p", is_over=False, started_at=NOW, changed_at=NOW
    )
    with pytest.raises(Exception, match="controller's own"):
        port.rows.save(row)
    with pytest.raises(Exception, match="controller's own"):
        port.rows.create(row)
    port.ledger.save(row)
    assert port.rows.get(RolloutRow, "r").service == "s"


def test_refusals_arrive_as_what_they_are(port: Port) -> None:
    with pytest.raises(Unknown, match="there is no note nothing"):
        port.rows.get(NoteRow, "nothing")
    with pytest.raises(UnknownField, match="not found by 'colour'"):
        port.rows.find(NoteRow, colour="red")
    with pytest.raises(Unstorable, match="may have 500"):
        port.rows.save(replace(NOTE, model="x" * 501))


@pytest.mark.parametrize(
    "said",
    [
        {"changes": []},
        {"changes": "all"},
        {"changes": [{"kind": "Nothing", "row": {}}]},
        {"changes": [{"kind": "Note", "row": {"id": "x"}}]},
        {"changes": [{"kind": "Note", "row": {**wire.row_to_json(NOTE)["row"], "colour": "red"}}]},
        {"changes": [{"kind": "Note", "row": {**wire.row_to_json(NOTE)["row"], "at": "yesterday"}}]},
        {"changes": [{"kind": "Note", "row": {**wire.row_to_json(NOTE)["row"], "generation": True}}]},
        {"changes": [7]},
    ],
)
def test_what_is_no_row_is_refused_and_nothing_is_written(port: Port, said: dict[str, Any]) -> None:
    header = {"authorization": f"Bearer {controller_token(port.home)}"}
    answer = httpx.post(f"{port.home.controller_url}/v1/rows", json=said, headers=header)
    assert (answer.status_code, port.ledger.find(NoteRow)) == (409, [])


def test_without_the_token_no_row_is_read_or_written(port: Port) -> None:
    port.rows.save(NOTE)
    for method, path in (
        ("GET", "/v1/rows/Note/fraud/hold"),
        ("POST", "/v1/rows"),
        ("POST", "/v1/rows/find"),
    ):
        assert httpx.request(method, port.home.controller_url + path).status_code == 401


def test_a_controller_that_is_away_is_an_error_to_try_again_and_one_that_is_back_is_used(port: Port) -> None:
    port.rows.save(NOTE)
    port.stop()
    with pytest.raises(ControllerDown):
        port.rows.find(NoteRow)
    port.start()
    assert len(port.rows.find(NoteRow)) == 1


def test_a_process_that_was_forked_off_has_connections_of_its_own(port: Port) -> None:
    port.rows.save(NOTE)
    if (child := os.fork()) == 0:
        # No exception may leave: it would run the rest of the tests twice.
        ok = False
        try:
            ok = len(port.rows.find(NoteRow)) == 1
        finally:
            os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(port.rows.find(NoteRow)) == 1


def test_a_backup_is_written_while_others_write_and_becomes_the_ledger_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = Port(tmp_path)
    port.start()
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.setenv("SLIPWAY_PORT_CONTROLLER", str(port.home.ports.controller))
    port.rows.save(NOTE, AuditRow(at=NOW, who="ada", action="hold"))
    backup = tmp_path / "backups" / "ledger.db"
    told = json.loads(run("ledger", "backup", str(backup), "--json"))
    assert told["number"] == 1
    port.rows.save(AuditRow(at=NOW, who="bo", action="release"))
    later = json.loads(run("ledger", "verify", "--json", "--number", "1", "--hash", told["hash"]))
    assert later["number"] == 2
    assert "the controller runs" in run("ledger", "restore", str(backup))
    port.stop()
    port.ledger.close()
    assert "there is a ledger already" in run("ledger", "restore", str(backup))
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    run("ledger", "restore", str(backup))
    port.start()
    assert [one.who for one in port.rows.find(AuditRow)] == ["ada"]
    # The head that was kept knows that the trail is another one now.
    assert "audit" in run("ledger", "verify", "--number", "2", "--hash", later["hash"])
    port.stop()
    port.ledger.close()


def run(*arguments: str) -> str:
    """What `./slipway` says."""
    return CliRunner().invoke(app, list(arguments)).output

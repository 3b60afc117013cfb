"""`slipway status` tells what became of requests in releases under way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.cli.app import app
from serving.cli.output import console
from serving.control.rollout.plan import Phase
from serving.home import Home
from tests.ledgers import ledger_in_memory, ledger_of
from tests.unit.serving.world import RELEASE, World

__all__ = ["ledger_in_memory"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger_in_memory: None) -> Home:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.setattr("serving.local_stack.lifecycle.program_statuses", lambda home: [])
    # Whatever terminal the tests run in, and whichever test made the console first.
    monkeypatch.setattr(console, "_width", 300)
    monkeypatch.setattr(console, "_height", 50)
    return Home.locate()


def status(*arguments: str) -> str:
    return CliRunner().invoke(app, ["status", *arguments]).stdout


def test_each_arm_says_what_it_answered_refused_called_malformed_and_failed(home: Home) -> None:
    world = World(ledger=ledger_of(home)).clients_send_garbage(0.1).both_refuse(0.1)
    world.until(Phase.PROGRESSING, step=1).tick(9)
    record = world.journal.latest_record(RELEASE)
    assert record
    candidate = record.candidate
    (told,) = json.loads(status("--json"))["releases"]
    assert (told["release_id"], told["phase"]) == (RELEASE, "progressing")
    assert told["candidate"] == {
        "answered": candidate.answered,
        "refused": candidate.refused,
        "malformed": candidate.malformed,
        "failed": 0,
    }
    assert candidate.refused > 0 < candidate.malformed
    rows = [line.split() for line in status().splitlines() if RELEASE in line]
    assert [row[2] for row in rows] == ["stable", "candidate"]


def test_without_a_release_under_way_there_is_nothing_to_tell(home: Home) -> None:
    assert json.loads(status("--json"))["releases"] == []
    assert "answered" not in status()

"""A home of before there was a ledger, as the stores find it once the controller has taken it over."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from model_store.types import ModelRef
from serving.control import aliases, cooldowns
from serving.control.audit import AuditTrail
from serving.control.freezes import Freezes
from serving.control.notes import NoteKind, Notes
from serving.control.outbox import Outbox
from serving.control.release_attempts import ReleaseAttempts
from serving.controller import take_over
from serving.home import Home, Ports
from serving.ledger.base import Ledger
from serving.ledger.memory import MemoryLedger
from serving.ledger.rows import KINDS, Rollout, Route

FILES = Path(__file__).parents[1] / "ledger" / "home"
NOW = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(Path(shutil.copytree(FILES, tmp_path / "home")), Ports())


@pytest.fixture
def ledger(home: Home) -> Ledger:
    made = MemoryLedger()
    take_over(home, made)
    return made


def test_every_store_reads_what_was_in_its_files(home: Home, ledger: Ledger) -> None:
    assert AuditTrail(ledger, home.late).entries(model="fraud")
    assert Freezes(ledger, home.freezes).asked_for(at=NOW) or Freezes(ledger, home.freezes).overrides()
    notes = Notes(ledger)
    for note in notes.standing(NoteKind.HOLD):
        assert cooldowns.read_hold(note).why
    for note in notes.standing(NoteKind.ALIAS):
        assert aliases.read_note(note).words
    assert len(notes.standing(*NoteKind)) == 3
    assert [entry.message.model for entry in Outbox(ledger).due(at=NOW)]
    attempts = ReleaseAttempts(ledger)
    assert (attempts.of(ModelRef("fraud", 2)), attempts.withdrawn(ModelRef("fraud", 2))) == (None, 1)
    assert attempts.of(ModelRef("fraud", 3))


def test_what_is_files_still_is_not_in_two_places(ledger: Ledger) -> None:
    assert ledger.find(Rollout) == ledger.find(Route) == []


def test_a_second_start_takes_nothing_over_and_brings_back_nothing_that_ended(
    home: Home, ledger: Ledger
) -> None:
    (hold,) = Notes(ledger).standing(NoteKind.HOLD)
    Notes(ledger).end(hold.model, NoteKind.HOLD, at=NOW)
    before = {kind: ledger.find(kind) for kind in KINDS}
    take_over(home, ledger)
    assert {kind: ledger.find(kind) for kind in KINDS} == before

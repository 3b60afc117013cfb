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
from serving.ledger import identity
from serving.ledger.base import Ledger
from serving.ledger.memory import MemoryLedger
from serving.ledger.rows import KINDS, AuditRow, ReleaseRecord, RolloutRow, RouteRow

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


def test_the_rollout_under_way_its_route_and_what_was_asked_for_are_there(
    ledger: Ledger,
) -> None:
    assert [(one.phase, one.version) for one in ledger.find(RolloutRow) if not one.is_over] == [
        ("progressing", 2)
    ]
    assert [(one.service, one.candidate_weight) for one in ledger.find(RouteRow)] == [("fraud", 50)]
    assert {one.version for one in ledger.find(ReleaseRecord)} == {1, 2, 3}


def test_a_route_that_this_slipway_wrote_is_no_file_of_before(home: Home, ledger: Ledger) -> None:
    identity.remember(home.root, {}, ledger)
    written = home.routes / "churn" / "endpoints.json"
    written.parent.mkdir()
    written.write_bytes(
        (home.routes / "fraud" / "endpoints.json").read_bytes().replace(b'"fraud"', b'"churn"')
    )
    before = ledger.find(AuditRow)
    take_over(home, ledger)
    assert ledger.find(AuditRow) == before, "an act that nobody did"
    assert [one.service for one in ledger.find(RouteRow)] == ["fraud"]


def test_a_second_start_takes_nothing_over_and_brings_back_nothing_that_ended(
    home: Home, ledger: Ledger
) -> None:
    (hold,) = Notes(ledger).standing(NoteKind.HOLD)
    Notes(ledger).end(hold.model, NoteKind.HOLD, at=NOW)
    before = {kind: ledger.find(kind) for kind in KINDS}
    take_over(home, ledger)
    assert {kind: ledger.find(kind) for kind in KINDS} == before

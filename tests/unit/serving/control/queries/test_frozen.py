"""What a freeze holds is shown as frozen, half way too, and what a freeze did is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.page.home import ModelFiles
from serving.control import freeze_enforcement
from serving.control.freezes import Freezes
from serving.control.queries.statuses import ReleaseStatus
from serving.control.rollout.control import Control, ControlRequest
from serving.control.rollout.journal import KeptJournal
from serving.control.wiring import now
from tests.ledgers import ledger_of
from tests.unit.serving.control.queries.test_catalog import NOW, World, standing_model

WORDS = "frozen until 2026-11-21 13:00 UTC: audit (ada)"
OWN = {"reason": "quarter's end", "starts": "2026-11-20", "ends": "2026-11-23"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def fraud(world: World) -> ModelFiles:
    return standing_model(world)


def pause(world: World, release: str, by: str, reason: str) -> None:
    Control(KeptJournal(ledger_of(world.home)), now=now).pause(release, ControlRequest(by, reason))


def test_a_rollout_that_a_freeze_holds_is_frozen_and_not_paused(world: World, fraud: ModelFiles) -> None:
    name = fraud.release(2, "rolling_out")
    pause(world, name, freeze_enforcement.FREEZE, WORDS)
    row = world.catalog.release(name).row
    assert (row.status, row.why) == (ReleaseStatus.FROZEN, WORDS)
    assert [one.id for one in world.catalog.releases(status="frozen").releases] == [name]
    assert world.catalog.model("fraud").active is not None


def test_what_a_person_paused_is_paused(world: World, fraud: ModelFiles) -> None:
    name = fraud.release(2, "rolling_out")
    pause(world, name, "bo", "lunch")
    view = world.catalog.release(name)
    assert (view.row.status, view.row.why) == (ReleaseStatus.PAUSED, "paused by bo: lunch")
    assert "paused" not in {moment.action for moment in view.moments}, "the audit trail tells it"


def test_the_history_tells_when_a_freeze_held_a_rollout_and_let_it_go(
    world: World, fraud: ModelFiles
) -> None:
    name = fraud.release(2, "rolling_out")
    pause(world, name, freeze_enforcement.FREEZE, WORDS)
    Control(KeptJournal(ledger_of(world.home)), now=now).resume(
        name, ControlRequest(freeze_enforcement.FREEZE, "it is over")
    )
    told = [(m.who, m.action, m.reason) for m in world.catalog.release(name).moments[:2]]
    assert sorted(told) == [("Slipway", "frozen", WORDS), ("Slipway", "let go", "it is over")]
    assert {("Slipway", "frozen"), ("Slipway", "let go")} <= set(world.history(model="fraud"))


def test_a_release_waits_for_the_end_of_its_own_window(world: World, fraud: ModelFiles) -> None:
    fraud.spec = {**fraud.spec, "freezes": [OWN]}
    name = fraud.release(2, "preparing")
    row = world.catalog.release(name).row
    assert (row.status, row.why) == (ReleaseStatus.FROZEN, "frozen until 2026-11-23 00:00 UTC: quarter's end")
    (shown,) = world.catalog.freezes()
    assert (shown.model, shown.source, shown.reason) == ("fraud", "spec", "quarter's end")
    assert list(world.catalog.shown_to(lambda model: model == "other").freezes()) == []
    Freezes(ledger_of(world.home), world.home.freezes).override(name, by="amina", reason="a fix", at=NOW)
    assert world.catalog.release(name).row.status is ReleaseStatus.PREPARING
    assert list(world.catalog.freezes()) == []


def test_a_window_that_is_over_holds_nothing(world: World, fraud: ModelFiles) -> None:
    fraud.spec = {**fraud.spec, "freezes": [{**OWN, "ends": "2026-11-21T11:00"}]}
    assert world.catalog.release(fraud.release(2, "preparing")).row.status is ReleaseStatus.PREPARING
    assert list(world.catalog.freezes()) == []

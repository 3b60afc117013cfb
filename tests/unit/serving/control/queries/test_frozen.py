"""What a freeze holds is shown as frozen, half way too, and what a freeze did is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.page.home import Shelf
from serving.composition import wire
from serving.control import freezing
from serving.control.freezes import Freezes
from serving.control.queries.statuses import Status
from serving.control.rollout.control import Wish
from tests.unit.serving.control.queries.test_library import NOW, World, standing_model

WORDS = "frozen until 2026-11-21 13:00 UTC: audit (ada)"
OWN = {"reason": "quarter's end", "starts": "2026-11-20", "ends": "2026-11-23"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def fraud(world: World) -> Shelf:
    return standing_model(world)


def pause(world: World, release: str, by: str, reason: str) -> None:
    freezing.control_of(wire(world.home)).pause(release, Wish(by, reason))


def test_a_rollout_that_a_freeze_holds_is_frozen_and_not_paused(world: World, fraud: Shelf) -> None:
    name = fraud.release(2, "rolling_out")
    pause(world, name, freezing.FREEZE, WORDS)
    row = world.library.release(name).row
    assert (row.status, row.why) == (Status.FROZEN, WORDS)
    assert [one.id for one in world.library.releases(status="frozen").releases] == [name]
    assert world.library.model("fraud").active is not None


def test_what_a_person_paused_is_paused(world: World, fraud: Shelf) -> None:
    name = fraud.release(2, "rolling_out")
    pause(world, name, "bo", "lunch")
    view = world.library.release(name)
    assert (view.row.status, view.row.why) == (Status.PAUSED, "paused by bo: lunch")
    assert "paused" not in {moment.action for moment in view.moments}, "the audit trail tells it"


def test_the_history_tells_when_a_freeze_held_a_rollout_and_let_it_go(world: World, fraud: Shelf) -> None:
    name = fraud.release(2, "rolling_out")
    pause(world, name, freezing.FREEZE, WORDS)
    freezing.control_of(wire(world.home)).resume(name, Wish(freezing.FREEZE, "it is over"))
    told = [(m.who, m.action, m.reason) for m in world.library.release(name).moments[:2]]
    assert sorted(told) == [("Slipway", "frozen", WORDS), ("Slipway", "let go", "it is over")]
    assert {("Slipway", "frozen"), ("Slipway", "let go")} <= set(world.history(model="fraud"))


def test_a_release_waits_for_the_end_of_its_own_window(world: World, fraud: Shelf) -> None:
    fraud.spec = {**fraud.spec, "freezes": [OWN]}
    name = fraud.release(2, "preparing")
    row = world.library.release(name).row
    assert (row.status, row.why) == (Status.FROZEN, "frozen until 2026-11-23 00:00 UTC: quarter's end")
    (shown,) = world.library.freezes()
    assert (shown.model, shown.source, shown.reason) == ("fraud", "spec", "quarter's end")
    assert list(world.library.shown_to(lambda model: model == "other").freezes()) == []
    Freezes(world.home.freezes).override(name, by="amina", reason="a fix", at=NOW)
    assert world.library.release(name).row.status is Status.PREPARING
    assert list(world.library.freezes()) == []


def test_a_window_that_is_over_holds_nothing(world: World, fraud: Shelf) -> None:
    fraud.spec = {**fraud.spec, "freezes": [{**OWN, "ends": "2026-11-21T11:00"}]}
    assert world.library.release(fraud.release(2, "preparing")).row.status is Status.PREPARING
    assert list(world.library.freezes()) == []

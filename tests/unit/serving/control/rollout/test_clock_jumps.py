"""The wall's clock is set while a rollout is under way: only the time that was watched counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.control.rollout.control import Control, ControlRequest
from serving.control.rollout.journal import KeptJournal
from serving.control.rollout.plan import Phase
from serving.ledger.rows import RolloutRow
from tests.unit.serving.world import RELEASE, World

JUMPS = [-7200.0, 7200.0]


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_while_there_is_no_controller_decides_nothing(jump: float) -> None:
    world = World().until(Phase.PROGRESSING, step=1)
    world.controller_is_up = False
    world.tick(32).clock_jumps(jump)
    world.controller_is_up = True
    world.restart_controller().tick(4)
    assert world.phase is Phase.PROGRESSING
    world.until(Phase.DONE)


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_before_the_first_look_decides_nothing(jump: float) -> None:
    world = World()
    world.controller_is_up = False
    world.clock_jumps(jump).tick(4)
    world.controller_is_up = True
    world.until(Phase.DONE)


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_in_a_pause_leaves_the_steps_limit_as_it_is(jump: float) -> None:
    world = World().until(Phase.PROGRESSING, step=1)
    control = Control(world.journal, now=world.now)
    control.pause(RELEASE, ControlRequest("ada", "lunch"))
    world.tick(100, seconds=1).clock_jumps(jump)
    control.resume(RELEASE, ControlRequest("ada", "back"))
    assert world.state.patience_from == pytest.approx(100, abs=15)


@pytest.mark.parametrize("jump", JUMPS)
def test_a_step_without_evidence_is_given_up_by_the_time_that_was_watched(jump: float) -> None:
    world = World().until(Phase.PROGRESSING, step=1).requests(0)
    world.tick(140, seconds=4).clock_jumps(jump)
    assert world.tick().phase is Phase.PROGRESSING
    world.tick(15, seconds=4)
    assert world.phase is Phase.ROLLED_BACK
    assert "no pass within 600 s" in world.state.reason


def test_after_a_restart_of_the_machine_the_rollout_goes_on() -> None:
    world = World().until(Phase.PROGRESSING, step=1)
    world.uptime = 12.0
    world.restart_controller().until(Phase.DONE)


def test_a_state_that_says_when_its_step_began_by_uptime_is_read() -> None:
    world = World().until(Phase.PROGRESSING, step=1)
    row = world.ledger.get(RolloutRow, RELEASE)
    world.ledger.save(replace(row, document={**row.document, "step_uptime": 1000.0, "boot": "b0"}))
    world.journal = KeptJournal(world.ledger)
    world.restart_controller().until(Phase.DONE)

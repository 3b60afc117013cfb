"""The wall's clock is set while nobody watches: how long a step waited is told by the machine's uptime."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.control.rollout.advance import Rollouts
from serving.control.rollout.control import Control, ControlRequest
from serving.control.rollout.plan import Phase, RolloutState
from serving.types import ALL_STABLE, Outcome
from tests.unit.serving.world import RELEASE, World

JUMPS = [-7200.0, 7200.0]


def unwatched(world: World) -> World:
    """Its guard has been silent for 8 s."""
    world.until(Phase.PROGRESSING, step=1)
    world.guard_is_up = False
    return world.tick(32)


def after_a_restart_of_the_machine(world: World) -> None:
    world.uptime = 12.0
    world.rollouts = Rollouts(
        world.journal, world.router, now=world.now, monotonic=world.monotonic, boot=lambda: "another"
    )


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_while_the_guard_is_silent_decides_nothing(jump: float) -> None:
    world = unwatched(World())
    world.clock_jumps(jump).tick(58, seconds=10)
    assert (world.phase, world.state.step) == (Phase.PROGRESSING, 1)
    world.tick(3, seconds=10)
    assert (world.phase, world.split) == (Phase.ROLLED_BACK, ALL_STABLE)
    assert "no pass within 600 s" in world.state.reason


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_before_the_guards_first_look_decides_nothing(jump: float) -> None:
    world = World()
    world.guard_is_up = False
    world.clock_jumps(jump).tick(4)
    assert world.phase is Phase.PROGRESSING
    world.guard_is_up = True
    world.until(Phase.DONE)


@pytest.mark.parametrize("jump", JUMPS)
def test_a_jump_in_a_pause_leaves_the_steps_limit_as_it_is(jump: float) -> None:
    world = World().until(Phase.PROGRESSING, step=1)
    control = Control(world.journal, now=world.now, monotonic=world.monotonic)
    control.pause(RELEASE, ControlRequest("ada", "lunch"))
    world.guard_is_up = False
    world.tick(10, seconds=10).clock_jumps(jump)
    control.resume(RELEASE, ControlRequest("ada", "back"))
    assert world.state.patience_from == pytest.approx(100, abs=5)


def test_the_uptime_of_another_start_of_the_machine_says_nothing() -> None:
    world = unwatched(World())
    after_a_restart_of_the_machine(world)
    world.tick(4)
    assert world.phase is Phase.PROGRESSING
    world.wall = world.state.step_started_at
    world.clock_jumps(601).tick()
    assert world.phase is Phase.ROLLED_BACK


def test_after_a_restart_with_a_clock_that_went_back_nothing_has_waited_yet() -> None:
    world = unwatched(World())
    after_a_restart_of_the_machine(world)
    world.clock_jumps(-7200)
    control = Control(world.journal, now=world.now, monotonic=world.monotonic, boot=lambda: "another")
    control.pause(RELEASE, ControlRequest("ada", "lunch"))
    control.resume(RELEASE, ControlRequest("ada", "back"))
    assert world.state.patience_from == 0


def test_a_guard_that_is_silent_since_a_restart_of_the_machine_moves_nothing_on() -> None:
    world = World().until(Phase.PROGRESSING, step=1)
    world.airflow_is_up = False
    world.tick(12)
    world.guard_is_up = False
    after_a_restart_of_the_machine(world)
    record = world.journal.latest_record(RELEASE)
    assert record
    assert record.verdict.outcome is Outcome.PASS
    world.uptime = record.monotonic
    world.clock_jumps(600)
    world.rollouts.advance(RELEASE)
    assert world.state.step == 1


def test_a_clock_that_went_back_makes_no_silent_guard_heard() -> None:
    world = World().until(Phase.PROGRESSING, step=1)
    world.airflow_is_up = False
    world.tick(12)
    world.guard_is_up = False
    world.tick(60, seconds=1).clock_jumps(-60)
    world.rollouts.advance(RELEASE)
    assert world.state.step == 1


def test_a_state_of_before_uptime_was_noted_is_read_and_goes_by_the_wall(tmp_path: Path) -> None:
    world = unwatched(World(tmp_path))
    path = world.journal.path(RELEASE)
    saved = json.loads(path.read_text())
    assert saved["state"].pop("boot")
    assert saved["state"].pop("step_uptime") > 1000
    path.write_text(json.dumps(saved))
    world.tick()
    assert world.phase is Phase.PROGRESSING
    world.clock_jumps(601).tick()
    assert world.phase is Phase.ROLLED_BACK


def test_each_step_and_the_watch_note_their_own_start() -> None:
    world = World()

    def noted(state: RolloutState) -> float:
        assert state.boot
        return state.step_uptime

    seen = [noted(world.state)]
    for phase, step in [(Phase.PROGRESSING, 0), (Phase.PROGRESSING, 1), (Phase.WATCHING, 2)]:
        world.until(phase, step=step)
        seen.append(noted(world.state))
        assert seen[-1] == world.uptime
    assert seen == sorted(set(seen))
    world.until(Phase.DONE)
    assert (world.state.boot, world.state.step_uptime) == ("", 0.0)

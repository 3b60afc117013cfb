"""Every cell of the fail-safe matrix (docs/fail-safe.md), each in a simulated world."""

from __future__ import annotations

from itertools import product

import pytest

from serving.control.rollout.plan import Phase
from serving.types import ALL_STABLE
from tests.unit.serving.control.rollout.test_crashes_and_races import Interrupted, Killed
from tests.unit.serving.world import World

HALF_A_MINUTE = 120

CELLS = list(
    product(
        ["stable healthy", "stable also bad"],
        ["candidate healthy", "candidate bad", "candidate slow", "candidate silent"],
        ["metrics present", "metrics late", "metrics gone"],
        ["controller stays", "controller killed"],
        ["during canary", "after promotion", "during the switch"],
    )
)


def expected(stable: str, candidate: str, metrics: str, controller: str, when: str) -> str:
    """The table of docs/fail-safe.md."""
    if metrics == "metrics gone":
        return "kept" if when == "after promotion" else "rolled back"
    if candidate == "candidate silent":
        return "rolled back"
    if candidate == "candidate slow" and when == "after promotion":
        return "rolled back"  # slow answers are not repeated on stable, so nothing says that it is no better
    if candidate in ("candidate bad", "candidate slow"):
        return "rolled back" if stable == "stable healthy" else "kept"
    return "goes on"


def world_at(when: str) -> World:
    if when == "after promotion":
        return World().until(Phase.WATCHING)
    if when == "during canary":
        return World().until(Phase.PROGRESSING, step=1)
    return killed_in_the_switch()


def killed_in_the_switch() -> World:
    """The next step is decided and saved, but the route was not written when the process died."""
    world = World().until(Phase.PROGRESSING, step=0)

    def die_before_a_write(what: str) -> None:
        if what == "before write":
            raise Killed(what)

    router = world.router
    world.router = Interrupted(router, die_before_a_write, ("write",))  # type: ignore[assignment]
    world.restart_controller()
    with pytest.raises(Killed):
        world.tick(HALF_A_MINUTE)
    world.router = router
    world.restart_controller()
    assert world.state.split != world.split
    return world


@pytest.mark.parametrize("cell", CELLS, ids=", ".join)
def test_cell(cell: tuple[str, str, str, str, str]) -> None:
    stable, candidate, metrics, controller, when = cell
    world = world_at(when)
    world.stable_errors(0.2 if stable == "stable also bad" else 0.0)
    world.candidate_errors(0.2 if candidate == "candidate bad" else 0.0)
    if candidate == "candidate slow":
        world.candidate_slow(0.2)
        world.slow_rate["stable"] = 0.2 if stable == "stable also bad" else 0.0
    world.silent = candidate == "candidate silent"
    world.metrics_late_ticks = 12 if metrics == "metrics late" else 0
    world.envoy_answers = metrics != "metrics gone"
    before = (world.phase, world.split)

    if controller == "controller killed":
        world.tick(2).restart_controller()
    world.tick(HALF_A_MINUTE)

    match expected(*cell):
        case "rolled back":
            assert (world.phase, world.split) == (Phase.ROLLED_BACK, ALL_STABLE)
            assert world.route.stable == world.stable
            assert world.state.reason
        case "goes on":
            world.until(Phase.DONE)
        case "kept":
            assert world.phase is before[0]
            assert world.split.candidate >= before[1].candidate > 0

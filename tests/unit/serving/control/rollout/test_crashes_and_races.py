"""A crash between any two lines, and two writers at the same time in every order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from serving.control.rollout.advance import Rollouts
from serving.control.rollout.decide import Observation
from serving.control.rollout.journal import KeptJournal, StaleState
from serving.control.rollout.plan import Phase, RolloutStep
from serving.gateway.router.base import StaleRoute
from serving.gateway.router.kept import LedgerRouter
from serving.gateway.router.memory import MemoryRouter
from serving.ledger.memory import MemoryLedger
from serving.types import ALL_STABLE, Finding, Outcome, RouteSettings, TrafficSplit, Verdict
from tests.unit.serving.world import PLAN, RELEASE, SERVICE, World

Hook = Callable[[str], None]
AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
SHORT = replace(
    PLAN,
    steps=tuple(RolloutStep(TrafficSplit(100 - weight, weight), 1) for weight in (50, 100)),
    watch_seconds=2,
)


class Killed(BaseException):
    """The process is gone; nobody catches this."""


WRITES = ("write", "save", "create")
READS_AND_WRITES = ("read", "load", *WRITES)


class Interrupted:
    """Journal or router whose calls named in `calls` call `hook` before and after."""

    def __init__(self, inner: Any, hook: Hook, calls: tuple[str, ...] = READS_AND_WRITES) -> None:
        self._inner, self._hook, self._calls = inner, hook, calls

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, name)
        if name not in self._calls:
            return inner

        def call(*args: Any, **kwargs: Any) -> Any:
            self._hook(f"before {name}")
            result = inner(*args, **kwargs)
            self._hook(f"after {name}")
            return result

        return call


def interrupted(world: World, hook: Hook, calls: tuple[str, ...] = READS_AND_WRITES) -> Rollouts:
    """The same world's rollouts, with `hook` around every one of `calls`."""
    journal, router = Interrupted(world.journal, hook, calls), Interrupted(world.router, hook, calls)
    return Rollouts(journal, router, now=world.now)  # type: ignore[arg-type]


def killer(at: int) -> tuple[Hook, list[str]]:
    """A hook that kills at its call number `at`, and what it was called for."""
    calls: list[str] = []

    def hook(what: str) -> None:
        calls.append(what)
        if len(calls) - 1 == at:
            raise Killed(what)

    return hook, calls


def run_with_kill(world: World, at: int, *, ticks: int) -> bool:
    """Tick with one kill of the controller before or after a write. False if none came."""
    hook, _ = killer(at)
    journal, router = world.journal, world.router
    world.journal, world.router = (  # type: ignore[assignment]
        Interrupted(journal, hook, WRITES),
        Interrupted(router, hook, WRITES),
    )
    world.restart_controller()
    try:
        world.tick(ticks)
    except Killed:
        return True
    finally:
        world.journal, world.router = journal, router
        world.restart_controller()
    return False


def test_a_healthy_release_killed_at_any_point_still_ends_well() -> None:
    for at in count():
        world = World(plan=SHORT)
        was_killed = run_with_kill(world, at, ticks=60)
        world.until(Phase.DONE)
        assert (world.route.stable, world.route.candidate) == (world.candidate, None)
        if not was_killed:
            assert at == 2 * 7  # two shifts of two writes, one to promote, two to finish
            return


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.WATCHING])
def test_a_rollback_killed_at_any_point_still_ends_at_stable(phase: Phase) -> None:
    for at in count():
        world = World(plan=SHORT).until(phase, step=1).candidate_errors(1.0)
        was_killed = run_with_kill(world, at, ticks=8)
        world.tick(8)
        assert (world.phase, world.split) == (Phase.ROLLED_BACK, ALL_STABLE)
        if not was_killed:
            assert at == 2 * 3  # route, state, route
            return


@pytest.mark.parametrize("has_stable", [True, False])
def test_a_start_killed_at_any_point_can_be_repeated(has_stable: bool) -> None:
    for at in count():
        world = World(has_stable=has_stable)
        ledger = MemoryLedger()
        fresh = LedgerRouter(ledger, MemoryRouter())
        if has_stable:
            fresh.write(SERVICE, ALL_STABLE, stable=world.stable, candidate=None, at=0)
        world.router, world.journal = fresh, KeptJournal(ledger)
        hook, _ = killer(at)
        try:
            interrupted(world, hook).start(RELEASE, SHORT, world.candidate, RouteSettings())
        except Killed:
            was_killed = True
        else:
            was_killed = False
        world.restart_controller().rollouts.start(RELEASE, SHORT, world.candidate, RouteSettings())
        world.until(Phase.DONE)
        if not was_killed:
            return


def at_call(number: int, interruption: Callable[[], object]) -> tuple[Hook, list[str]]:
    """A hook that does `interruption` once, at call `number`."""
    calls: list[str] = []

    def hook(what: str) -> None:
        calls.append(what)
        if len(calls) - 1 == number:
            interruption()

    return hook, calls


PASS = Observation(Verdict.of([Finding("error rate", Outcome.PASS, "no difference")], at=AT), 1e6)


def advanced(world: World, rollouts: Rollouts) -> None:
    """One look that finds nothing against the candidate, its hold being over."""
    state = world.state
    if not state.phase.is_final:
        with suppress(StaleState, StaleRoute):
            rollouts.advance(state, world.route, PASS)


def ready_to_shift(step: int) -> World:
    """A world whose next look shifts from `step`."""
    return World().until(Phase.PROGRESSING, step=step)


@pytest.mark.parametrize("step", [-1, 0, 1, 2])
def test_a_rollback_in_the_middle_of_a_shift_wins(step: int) -> None:
    for number in count():
        world = ready_to_shift(step)
        plain = world.rollouts
        hook, calls = at_call(number, lambda: plain.roll_back(RELEASE, reason="race"))  # noqa: B023
        advanced(world, interrupted(world, hook))
        if len(calls) <= number:
            assert number >= 2  # a promotion writes one state, a shift a route as well
            return
        assert (world.split, world.phase) == (ALL_STABLE, Phase.ROLLED_BACK), calls[number]


@pytest.mark.parametrize("step", [-1, 0, 1, 2])
def test_a_shift_in_the_middle_of_a_rollback_loses(step: int) -> None:
    for number in count():
        world = ready_to_shift(step)
        plain = world.rollouts
        hook, calls = at_call(number, lambda: advanced(world, plain))  # noqa: B023
        interrupted(world, hook).roll_back(RELEASE, reason="race")
        assert (world.split, world.phase) == (ALL_STABLE, Phase.ROLLED_BACK), calls[-1]
        if len(calls) <= number:
            assert number > 5
            return


def test_a_rollback_in_the_middle_of_the_finish_leaves_one_consistent_end() -> None:
    for number in count():
        world = World().until(Phase.WATCHING)
        plain = world.rollouts
        hook, calls = at_call(number, lambda: plain.roll_back(RELEASE, reason="race"))  # noqa: B023
        advanced(world, interrupted(world, hook))
        world.tick(4)
        expected = {
            Phase.DONE: (world.candidate, None),
            Phase.ROLLED_BACK: (world.stable, world.candidate),
        }
        assert (world.route.stable, world.route.candidate) == expected[world.phase], calls[number]
        assert world.split == ALL_STABLE
        if len(calls) <= number:
            return


def test_weight_left_behind_by_two_crashes_at_once_is_taken_back_by_the_controller() -> None:
    world = World().until(Phase.PROGRESSING, step=1)
    split = world.split
    world.rollouts.roll_back(RELEASE, reason="test")
    world.router.write(
        SERVICE, split, stable=world.stable, candidate=world.candidate, at=world.route.revision
    )
    assert world.tick().split == ALL_STABLE

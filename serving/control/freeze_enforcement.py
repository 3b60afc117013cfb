"""Keeps releases still while a freeze is in force (`serving.control.freezes`): before their turn, and half
way.

A rollout that is under way keeps its split, as if somebody had paused it, and goes on by itself when the
freeze is over; so it does while its DAG is paused in Airflow, where nothing could finish it. A verdict may
take it back at any time; rollbacks never come by here. The controller asks (`.controller.holds`).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from serving.control import paused_dags
from serving.control.freezes import Freezes, Frozen
from serving.control.releases import Release
from serving.control.rollout.control import PAUSED, ActSuperseded, Control, ControlRequest
from serving.control.rollout.journal import StaleState, TimelineEvent
from serving.control.rollout.plan import Phase, RolloutState
from serving.control.wiring import Services, now

FREEZE = "the freeze"
PAUSED_DAG = "a paused DAG"
# Who holds rollouts without being a person.
_BY_THEMSELVES = (FREEZE, PAUSED_DAG)


def freezes_of(services: Services) -> Freezes:
    return Freezes(services.rows, services.home.freezes)


def control_of(services: Services) -> Control:
    return Control(services.journal, now=now)


def holding(services: Services, release: Release) -> Frozen | None:
    """The freeze that keeps this release from moving now."""
    return freezes_of(services).holding(release.id, release.spec.freezes, at=now())


def enforce(services: Services, state: RolloutState, release: Release | None) -> bool:
    """Pause the rollout when a freeze begins or its DAG is paused, and let it go on when that ends.

    Whether something holds it now. May be repeated. `release` None: nobody wrote down what it is about, and
    only what holds every model of its name holds it.
    """
    held = _reason_to_hold(services, state, release) if state.phase is Phase.PROGRESSING else None
    with suppress(ActSuperseded, StaleState):
        # Whoever was faster did the same, or ended the rollout.
        if (by := holder_of(state)) and not (held and held.by == by):
            why = _reason_to_resume(services, state, release, by)
            state = control_of(services).resume(state.release_id, ControlRequest(by, why))
        if held and not state.paused:
            control_of(services).pause(state.release_id, held)
    return held is not None


def _reason_to_hold(
    services: Services, state: RolloutState, release: Release | None
) -> ControlRequest | None:
    """What holds the release now although no person paused it."""
    windows = release.spec.freezes if release else ()
    if frozen := freezes_of(services).holding(state.release_id, windows, at=now()):
        return ControlRequest(FREEZE, frozen.words)
    if release and release.request.dag_id in paused_dags.paused(services.home):
        return ControlRequest(PAUSED_DAG, paused_dags.describe(release.request.dag_id))
    return None


def pause(services: Services, release_id: str, wish: ControlRequest) -> RolloutState:
    """A person's pause. What a freeze or a paused DAG holds is theirs from then on, and stays paused.

    Raises `ActSuperseded` as `Control.pause`, and to who saw it before it was held.
    """
    state = services.journal.load(release_id)
    if holder_of(state) and wish.seen in (None, state.generation):
        event = TimelineEvent(now(), PAUSED, wish.words, state.split.candidate)
        with suppress(StaleState):
            return services.journal.save(replace(state, paused=wish.words), event)
    return control_of(services).pause(release_id, wish)


def is_frozen(state: RolloutState) -> bool:
    """Whether it was a freeze that paused the rollout, and not a person."""
    return holder_of(state) == FREEZE


def holder_of(state: RolloutState) -> str:
    """What paused the rollout by itself: FREEZE or PAUSED_DAG; empty if nothing or a person did."""
    held = automatic_hold(state.paused)
    return held[0] if held else ""


def automatic_hold(said: str) -> tuple[str, str] | None:
    """FREEZE or PAUSED_DAG, and what it said when it held a rollout or let it go; None if a person did."""
    for by in _BY_THEMSELVES:
        if said.startswith(begins := ControlRequest(by, "").words):
            return by, said.removeprefix(begins)
    return None


def _reason_to_resume(services: Services, state: RolloutState, release: Release | None, by: str) -> str:
    if by == PAUSED_DAG and release:
        return f"{release.request.dag_id} is not paused any more"
    passed = freezes_of(services).override_of(state.release_id)
    return f"{passed.by} let it pass: {passed.reason}" if passed else "it is over"

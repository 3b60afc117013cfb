"""Keeps releases still while a freeze is in force (`serving.freezes`): before their turn, and half way.

A rollout that is under way keeps its split, as if somebody had paused it, and goes on by itself when the
freeze is over. The guard may take it back at any time; rollbacks never come by here.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from serving.freezes import Freezes, Frozen
from serving.rollout.control import PAUSED, Control, Overtaken, Wish
from serving.rollout.journal import Event, StaleState
from serving.rollout.plan import Phase, RolloutState
from slipway_airflow.releases import Release
from slipway_airflow.wiring import Services, now

FREEZE = "the freeze"


def freezes_of(services: Services) -> Freezes:
    return Freezes(services.home.freezes)


def control_of(services: Services) -> Control:
    return Control(services.journal, now=now)


def holding(services: Services, release: Release) -> Frozen | None:
    """The freeze that keeps this release from moving now."""
    return freezes_of(services).holding(release.id, release.spec.freezes, at=now())


def keep_still(services: Services, release: Release) -> None:
    """Pause the rollout when a freeze begins, and let it go on when it ends. May be repeated."""
    state = services.journal.load(release.id)
    frozen = holding(services, release) if state.phase is Phase.PROGRESSING else None
    with suppress(Overtaken):
        # Whoever was faster did the same, or ended the rollout.
        if frozen and not state.paused:
            control_of(services).pause(release.id, Wish(FREEZE, frozen.words))
        elif not frozen and is_frozen(state):
            control_of(services).resume(release.id, Wish(FREEZE, _why_it_goes_on(services, release)))


def pause(services: Services, release_id: str, wish: Wish) -> RolloutState:
    """A person's pause. What a freeze holds is theirs from then on, and stays paused when the freeze ends.

    Raises `Overtaken` as `Control.pause`, and to who saw it before it was frozen.
    """
    state = services.journal.load(release_id)
    if is_frozen(state) and wish.seen in (None, state.generation):
        event = Event(now(), PAUSED, wish.words, state.split.candidate)
        with suppress(StaleState):
            return services.journal.save(replace(state, paused=wish.words), event)
    return control_of(services).pause(release_id, wish)


def is_frozen(state: RolloutState) -> bool:
    """Whether it was a freeze that paused the rollout, and not a person."""
    return words_of_freeze(state.paused) is not None


def words_of_freeze(said: str) -> str | None:
    """What the freeze said when it held a rollout or let it go; None if it was a person who did."""
    by = Wish(FREEZE, "").words
    return said.removeprefix(by) if said.startswith(by) else None


def _why_it_goes_on(services: Services, release: Release) -> str:
    passed = freezes_of(services).override_of(release.id)
    return f"{passed.by} let it pass: {passed.reason}" if passed else "it is over"

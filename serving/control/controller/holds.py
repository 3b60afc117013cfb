"""What keeps a rollout from its next step although nothing speaks against the candidate, and who is told.

A freeze, or a DAG that somebody paused in Airflow, holds it as if a person had paused it
(`serving.control.freeze_enforcement`). A few releases are looked at with each tick, and each one once more
before it takes a step: no step is taken in a freeze that has begun. Going back is never held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime

from serving.control import blockers, freeze_enforcement, notifications
from serving.control.releases import ChangedReleases, NoSuchRelease, Release
from serving.control.rollout.plan import Action, RolloutState
from serving.control.wiring import Services

EVERY_SECONDS = 0.5
# So many in one tick: each is a few rows to be looked at.
MOST_AT_ONCE = 10

Apart = Callable[[str], AbstractContextManager[None]]


class Holds:
    """Of all releases under way. The clocks are the controller's."""

    def __init__(
        self, services: Services, *, now: Callable[[], datetime], monotonic: Callable[[], float]
    ) -> None:
        self._services, self._now, self._monotonic = services, now, monotonic
        self._looked: dict[str, float] = {}
        self._told: dict[str, int] = {}
        self._read: dict[str, Release | None] = {}
        self._changes = ChangedReleases(services.rows)

    def look(self, active: Sequence[RolloutState], actions: Mapping[str, Action], apart: Apart) -> None:
        """Hold and let go those that were not looked at for longest; tell people what is held."""
        for state in self._due(active):
            with apart(f"{state.release_id}: what holds it"):
                self.enforce(state)
                if action := actions.get(state.release_id):
                    self._tell(state, action)

    def enforce(self, state: RolloutState) -> bool:
        """Pause the rollout, or let it go on. Whether something holds it now."""
        release = self._release(state.release_id)
        return freeze_enforcement.enforce(self._services, state, release)

    def is_unrecorded(self, state: RolloutState) -> bool:
        """Whether alias and evidence are still to be written: until then the release holds the model's lock.

        If they cannot be, the release is taken back, for which the version before has to stand by.
        """
        holder = self._services.lock.read(state.service).holder
        return holder is not None and holder.release_id == state.release_id

    def _due(self, active: Sequence[RolloutState]) -> list[RolloutState]:
        now, known = self._monotonic(), {state.release_id for state in active}
        for memory in (self._looked, self._told, self._read):
            for gone in memory.keys() - known:
                memory.pop(gone)
        waiting = [each for each in active if not 0 <= now - self._last(each) < EVERY_SECONDS]
        due = sorted(waiting, key=self._last)[:MOST_AT_ONCE]
        self._looked |= {state.release_id: now for state in due}
        return due

    def _last(self, state: RolloutState) -> float:
        return self._looked.get(state.release_id, float("-inf"))

    def _tell(self, state: RolloutState, action: Action) -> None:
        """Once for each step."""
        why = blockers.reason_to_hold(state, action, at=self._now())
        if why and self._told.get(state.release_id) != state.place and self._release(state.release_id):
            notifications.notify_of_hold(self._services, state, why, at=self._now())
            self._told[state.release_id] = state.place

    def _release(self, release_id: str) -> Release | None:
        """None where nobody wrote down what it is about. Read again only when it was saved."""
        for each in self._changes.take():
            self._read.pop(each.id, None)
        if release_id not in self._read:
            try:
                self._read[release_id] = self._services.releases.load(release_id)
            except NoSuchRelease:
                self._read[release_id] = None
        return self._read[release_id]

"""Which version had what share of a model's requests, at any time since routes are written down."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import chain
from operator import attrgetter

from serving.control.queries.views import ModelServing, ServingAt, ServingVersion
from serving.gateway.router.base import RouteChange, RouteHistory, ServedArm

# So often the history is asked for what is new, at most.
LOOK_SECONDS = 0.2


class Traffic:
    """The history of all routes, read once and then only where it grew. Safe for many threads."""

    def __init__(self, history: RouteHistory, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._history, self._monotonic = history, monotonic
        self._looked = float("-inf")
        self._guarded = threading.Lock()
        self._offset = 0
        self._changes: dict[str, list[RouteChange]] = {}
        self._first: datetime | None = None
        # By model, of its changes: what served after so many of them.
        self._served: dict[str, tuple[list[RouteChange], dict[int, tuple[ServingVersion, ...]]]] = {}

    def at(self, moment: datetime, sees: Callable[[str], bool] | None = None) -> ServingAt:
        """What served then, by model that one `sees`. Models that had no version yet are left out."""
        known, first = self._known(), self._first
        if sees is not None:
            known = {model: changes for model, changes in known.items() if sees(model)}
            first = min((changes[0].at for changes in known.values()), default=None)
        served = (
            (model, self._after(model, known[model], _past(known[model], moment))) for model in sorted(known)
        )
        return ServingAt(moment, first, tuple(ModelServing(model, arms) for model, arms in served if arms))

    def since(self, model: str) -> dict[int, datetime]:
        """Of each version that gets requests now: since when it has done so without a pause."""
        changes = self._known().get(model, [])
        arms = self._after(model, changes, len(changes))
        return {arm.version: arm.since for arm in arms if arm.since}

    def count(self, model: str) -> int:
        """How often the model's route was changed: what is told of it is as good as this is the same."""
        return len(self._known().get(model, ()))

    def between(self, model: str, start: datetime, end: datetime) -> list[RouteChange]:
        """The changes of one route in a span of time, oldest first."""
        return [change for change in self._known().get(model, []) if start <= change.at <= end]

    def _after(self, model: str, changes: list[RouteChange], count: int) -> tuple[ServingVersion, ...]:
        """What served after the first `count` of a model's changes."""
        kept = self._served.get(model)
        if kept is None or kept[0] is not changes:
            kept = self._served[model] = (changes, {})
        if (arms := kept[1].get(count)) is None:
            arms = kept[1][count] = _serving(changes[:count])
        return arms

    def _known(self) -> dict[str, list[RouteChange]]:
        with self._guarded:
            if self._is_due():
                self._read_on()
            return self._changes

    def _is_due(self) -> bool:
        """However many rows of a page ask for theirs."""
        now = self._monotonic()
        if 0 <= now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        return True

    def _read_on(self) -> None:
        new, self._offset = self._history.read(offset=self._offset)
        if not new:
            return
        added: dict[str, list[RouteChange]] = {}
        for change in new:
            added.setdefault(change.service, []).append(change)
        grown = dict(self._changes)
        for model, mine in added.items():
            # A clock that was set back must not hide what came before.
            by_time = sorted([*grown.get(model, ()), *mine], key=lambda change: (change.at, change.revision))
            grown[model] = by_time
        self._changes = grown
        self._first = min((changes[0].at for changes in grown.values()), default=None)


def _past(changes: Sequence[RouteChange], moment: datetime) -> int:
    """How many of the changes had been made then."""
    return bisect_right(changes, moment, key=attrgetter("at"))


def _serving(past: Sequence[RouteChange]) -> tuple[ServingVersion, ...]:
    if not past:
        return ()
    since = _since(past)
    arms = [arm for arm in past[-1].arms if arm.weight > 0]
    return tuple(
        ServingVersion(arm.version, arm.bundle_id, arm.weight, since.get(arm.version)) for arm in arms
    )


def _since(changes: Sequence[RouteChange]) -> dict[int, datetime]:
    if not changes:
        return {}
    wanted = {arm.version for arm in _given(changes[-1])}
    since: dict[int, datetime] = {}
    for change in reversed(changes):
        wanted &= {arm.version for arm in _given(change)}
        if not wanted:
            break
        since |= dict.fromkeys(wanted, change.at)
    return since


def _given(change: RouteChange) -> list[ServedArm]:
    return [arm for arm in chain(change.arms) if arm.weight > 0]

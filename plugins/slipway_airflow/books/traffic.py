"""Which version had what share of a model's requests, at any time since routes are written down."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path

from serving.router.history import RouteChange, RouteHistory, Served
from slipway_airflow.books.views import ServedModel, Serving, ServingAt


class Traffic:
    """The history of all routes, read once and then only where it grew. Safe for many threads."""

    def __init__(self, path: Path) -> None:
        self._history = RouteHistory(path)
        self._guarded = threading.Lock()
        self._offset = 0
        self._stamp = (0, 0)
        self._changes: dict[str, list[RouteChange]] = {}

    def at(self, moment: datetime, sees: Callable[[str], bool] | None = None) -> ServingAt:
        """What served then, by model that one `sees`. Models that had no version yet are left out."""
        known = {model: changes for model, changes in self._known().items() if sees is None or sees(model)}
        first = min((changes[0].at for changes in known.values()), default=None)
        served = ((model, _serving_at(known[model], moment)) for model in sorted(known))
        return ServingAt(moment, first, tuple(ServedModel(model, arms) for model, arms in served if arms))

    def since(self, model: str) -> dict[int, datetime]:
        """Of each version that gets requests now: since when it has done so without a pause."""
        return _since(self._known().get(model, []))

    def between(self, model: str, start: datetime, end: datetime) -> list[RouteChange]:
        """The changes of one route in a span of time, oldest first."""
        return [change for change in self._known().get(model, []) if start <= change.at <= end]

    def _known(self) -> dict[str, list[RouteChange]]:
        with self._guarded:
            stamp = self._stat()
            if stamp != self._stamp:
                self._read_on(stamp)
            return self._changes

    def _read_on(self, stamp: tuple[int, int]) -> None:
        if stamp[0] != self._stamp[0] or stamp[1] < self._offset:
            # Another file than before: somebody archived the old one.
            self._offset, self._changes = 0, {}
        new, self._offset = self._history.read(offset=self._offset)
        self._stamp = stamp
        grown = {model: list(changes) for model, changes in self._changes.items()} if new else self._changes
        for change in new:
            grown.setdefault(change.service, []).append(change)
        for model in {change.service for change in new}:
            # A clock that was set back must not hide what came before.
            grown[model].sort(key=lambda change: (change.at, change.revision))
        self._changes = grown

    def _stat(self) -> tuple[int, int]:
        try:
            stat = self._history.path.stat()
        except FileNotFoundError:
            return (0, 0)
        return stat.st_ino, stat.st_size


def _serving_at(changes: Sequence[RouteChange], moment: datetime) -> tuple[Serving, ...]:
    past = changes[: bisect_right(changes, moment, key=lambda change: change.at)]
    if not past:
        return ()
    since = _since(past)
    arms = [arm for arm in past[-1].arms if arm.weight > 0]
    return tuple(Serving(arm.version, arm.bundle_id, arm.weight, since.get(arm.version)) for arm in arms)


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


def _given(change: RouteChange) -> list[Served]:
    return [arm for arm in chain(change.arms) if arm.weight > 0]

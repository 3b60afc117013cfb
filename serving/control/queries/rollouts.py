"""Rollouts and release locks as the pages have them: asked once, and then only for what changed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import count, groupby
from types import MappingProxyType

from model_store.errors import Retryable
from serving.control.queries.snapshots import RolloutSnapshot, rollout_snapshot
from serving.control.rollout.lock import LockState, lock_of_row
from serving.ledger.base import Rows
from serving.ledger.rows import EventRow, LockRow, RolloutRow

# So many rollouts are asked for at once.
_PIECE = 500
# So often all locks are asked for; in between those that changed.
_ALL_LOCKS_SECONDS = 2.0
_FREE = LockState()
_NONE: Mapping[str, RolloutSnapshot] = MappingProxyType({})

log = logging.getLogger(__name__)


class RolloutFeed:
    """All rollouts and locks in `rows`, as of the last `refresh`. Of one thread at a time."""

    def __init__(self, rows: Rows, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._rows, self._monotonic = rows, monotonic
        self._seen: int | None = None
        self._locks_at = float("-inf")
        self._rollouts: dict[str, dict[str, RolloutSnapshot]] = {}
        self._turns: dict[str, LockRow] = {}

    def of(self, model: str) -> Mapping[str, RolloutSnapshot]:
        """A model's rollouts, by release."""
        return self._rollouts.get(model, _NONE)

    def lock(self, model: str) -> LockState:
        turn = self._turns.get(model)
        return lock_of_row(turn) if turn else _FREE

    def names(self) -> set[str]:
        """Every model that has any."""
        return {*self._rollouts, *self._turns}

    def refresh(self) -> set[str]:
        """Ask for what changed. Which models it is of; what is known stays while nobody answers.

        Raises `Retryable` where nothing is known yet.
        """
        try:
            return self._changed_rollouts() | self._changed_locks()
        except Retryable as problem:
            if self._seen is None:
                raise
            log.warning("the pages show what was known last: %s", problem.problem)
            return set()

    def _changed_rollouts(self) -> set[str]:
        if self._seen is None:
            newest = self._rows.find(EventRow, newest=1)
            seen = newest[0].number if newest else 0
            changed = {model for rows in self._all() for model in self._take(rows)}
        else:
            events = self._rows.find(EventRow, after=self._seen)
            seen = max((event.number for event in events), default=self._seen)
            names = sorted({event.release_id for event in events})
            changed = {
                model
                for start in range(0, len(names), _PIECE)
                for model in self._take(self._rows.find(RolloutRow, release_id=names[start : start + _PIECE]))
            }
        self._seen = seen
        return changed

    def _all(self) -> Iterable[list[RolloutRow]]:
        for skip in count(0, _PIECE):
            rows = self._rows.find(RolloutRow, newest=_PIECE, skip=skip)
            yield rows
            if len(rows) < _PIECE:
                return

    def _take(self, rows: list[RolloutRow]) -> set[str]:
        if not rows:
            return set()
        found = self._rows.find(EventRow, release_id=[row.release_id for row in rows])
        found.sort(key=lambda event: (event.release_id, event.number))
        events = {name: list(some) for name, some in groupby(found, key=lambda event: event.release_id)}
        for row in rows:
            try:
                made = rollout_snapshot(row, events.get(row.release_id, []))
            except (ValueError, KeyError, TypeError):
                # It is left out, as if it were not there.
                continue
            # Others read it meanwhile.
            of_model = {**self._rollouts.get(row.service, {}), row.release_id: made}
            self._rollouts[row.service] = of_model
        return {row.service for row in rows}

    def _changed_locks(self) -> set[str]:
        now = self._monotonic()
        is_due = not 0 <= now - self._locks_at < _ALL_LOCKS_SECONDS
        since = None if is_due else max((turn.at for turn in self._turns.values()), default=None)
        rows = self._rows.find(LockRow, since=since)
        changed = {row.service for row in rows if self._turns.get(row.service) != row}
        self._turns |= {row.service: row for row in rows}
        self._locks_at = now if is_due else self._locks_at
        return changed

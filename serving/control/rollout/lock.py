"""One release at a time per service; one may wait, and a newer one takes its place.

The ledger's row of a service names the holder and the waiting release. It is asked for again and again (a
task that polls, a task that is retried), always with the same answer, and no process need stay alive to hold
it. Newer means asked for later: `requested_at`, then the release id.

Other processes take and give it up through the controller: each change names the generation that it was
decided on, so of two at once one is refused and decides again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from model_store.errors import Retryable
from serving.ledger.base import Rows, StaleGeneration, Unknown
from serving.ledger.rows import LockRow

_ATTEMPTS = 100


class LockOutcome(StrEnum):
    """What an attempt to take the lock came to. SUPERSEDED is final: a newer release is on its way."""

    HELD = "held"
    WAITING = "waiting"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """Who wants the lock, since when."""

    requested_at: datetime
    release_id: str


@dataclass(frozen=True, slots=True)
class LockState:
    """The lock as it stands."""

    holder: Claim | None = None
    waiting: Claim | None = None


class ReleaseLock:
    """The locks in `rows`. `now` tells the time, in UTC."""

    def __init__(self, rows: Rows, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._rows, self._now = rows, now

    def acquire(self, service: str, claim: Claim) -> LockOutcome:
        """Take the lock, or a place in front of it. Repeating it is how one waits."""
        outcome = LockOutcome.WAITING

        def acquired(before: LockState) -> LockState:
            nonlocal outcome
            after, outcome = _acquired(before, claim)
            return after

        self._change(service, acquired)
        return outcome

    def release(self, service: str, release_id: str) -> LockState:
        """Give up the lock or the place in front of it; neither is no error."""
        return self._change(
            service,
            lambda before: LockState(
                _without(before.holder, release_id), _without(before.waiting, release_id)
            ),
        )

    def read(self, service: str) -> LockState:
        """Who holds it and who waits."""
        return lock_of_row(self._row(service))

    def _change(self, service: str, change: Callable[[LockState], LockState]) -> LockState:
        for _ in range(_ATTEMPTS):
            row = self._row(service)
            before = lock_of_row(row)
            after = change(before)
            if after == before:
                return after
            try:
                self._rows.save(
                    _row_of(after, service, at=self._now(), generation=row.generation if row else 0)
                )
            except StaleGeneration:
                continue
            return after
        raise Retryable(
            f"the release lock of {service} keeps changing", remedy="it is tried again", delay_seconds=1
        )

    def _row(self, service: str) -> LockRow | None:
        try:
            return self._rows.get(LockRow, service)
        except Unknown:
            return None


def lock_of_row(row: LockRow | None) -> LockState:
    """What a row says; None: nobody ever held it."""
    if row is None:
        return LockState()
    return LockState(_claim(row.holder, row.holder_at), _claim(row.waiting, row.waiting_at))


def _row_of(state: LockState, service: str, *, at: datetime, generation: int) -> LockRow:
    holder, waiting = state.holder, state.waiting
    return LockRow(
        service=service,
        at=at,
        holder=holder.release_id if holder else None,
        holder_at=holder.requested_at if holder else None,
        waiting=waiting.release_id if waiting else None,
        waiting_at=waiting.requested_at if waiting else None,
        generation=generation,
    )


def _acquired(state: LockState, claim: Claim) -> tuple[LockState, LockOutcome]:
    if state.holder == claim:
        return state, LockOutcome.HELD
    if any(other and other > claim for other in (state.holder, state.waiting)):
        return LockState(state.holder, _without(state.waiting, claim.release_id)), LockOutcome.SUPERSEDED
    if state.holder is None:
        return LockState(holder=claim), LockOutcome.HELD
    return LockState(state.holder, waiting=claim), LockOutcome.WAITING


def _without(claim: Claim | None, release_id: str) -> Claim | None:
    return None if claim and claim.release_id == release_id else claim


def _claim(release_id: str | None, requested_at: datetime | None) -> Claim | None:
    return Claim(requested_at, release_id) if release_id and requested_at else None

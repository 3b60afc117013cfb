"""Whose turn it is: one release of a model at a time, the newest of those that wait next.

During a freeze nobody's turn comes; the newest request is the one that goes on when it is over.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from model_store.errors import Permanent
from serving.control import cooldowns, freeze_enforcement, rollbacks
from serving.control.releases import Release
from serving.control.rollout.lock import Claim, LockOutcome, LockState
from serving.control.wiring import Services

_log = logging.getLogger(__name__)
_VERSION = re.compile(r"-v(\d+)-")


class QueueState(StrEnum):
    """TAKEN holds the lock, WAITING comes next, OVER never will: a newer or equal release is on its way."""

    TAKEN = "taken"
    WAITING = "waiting"
    OVER = "over"


class QueuePosition(NamedTuple):
    """Where a release stands in the queue of its model, in a word and in words. `winner`: whom it lost to."""

    turn: QueueState
    words: str
    winner: str = ""


def acquire(services: Services, release: Release) -> QueuePosition:
    """Take the model's release lock, or a place in front of it. Asking again is how one waits."""
    claim = Claim(release.request.at, release.id)
    before = services.lock.read(release.model)
    if (holder := before.holder) and holder != claim and _version(holder) == release.version:
        services.lock.release(release.model, release.id)
        words = f"superseded by {holder.release_id}, which releases the same version"
        return QueuePosition(QueueState.OVER, words, holder.release_id)
    if (
        (waiting := before.waiting)
        and before.holder == claim
        and (frozen := freeze_enforcement.holding(services, release))
    ):
        services.lock.release(release.model, release.id)
        words = f"superseded by {waiting.release_id} while it was {frozen.words}"
        return QueuePosition(QueueState.OVER, words, waiting.release_id)
    standing = services.lock.acquire(release.model, claim)
    if standing is LockOutcome.HELD and (frozen := freeze_enforcement.holding(services, release)):
        return QueuePosition(QueueState.WAITING, frozen.words)
    return _position(standing, claim, services.lock.read(release.model))


def require_lock(services: Services, release: Release) -> None:
    """Before a release touches traffic: nobody took its turn. Raises `Permanent` when a rollback did.

    A task that is cleared after its run ended finds the lock free, and takes it again.
    """
    holder = services.lock.read(release.model).holder
    if holder and holder.release_id == release.id:
        return
    last = cooldowns.last_rollback_at(services, release.model)
    overtaken = last is not None and last > release.request.at
    if overtaken or acquire(services, release).turn is not QueueState.TAKEN:
        by = holder.release_id if holder else "a rollback"
        raise Permanent(f"{release.id} lost its turn to {by}", remedy="release the version again")


def release_lock(services: Services, release: Release) -> None:
    """Give back the lock, or the place in front of it."""
    services.lock.release(release.model, release.id)


def drop_ended(services: Services, model: str, is_over: Callable[[str, str], bool]) -> None:
    """Free the lock, and the place in front of it, of releases whose DAG run is over: nobody else would.

    `is_over(DAG id, run id)`: whether the run ended, which only a task or a trigger can ask of Airflow.
    """
    state = services.lock.read(model)
    for claim in filter(None, (state.holder, state.waiting)):
        name = claim.release_id
        if rollbacks.is_rollback_id(model, name):
            # The controller's: no run of Airflow's says anything of it.
            if rollbacks.is_carried_out(services, name):
                services.lock.release(model, name)
        elif (run := _run_of(services, name)) and is_over(*run):
            _log.warning("%s is passed over: its run %s is over", name, run[1])
            services.lock.release(model, name)


def _run_of(services: Services, name: str) -> tuple[str, str] | None:
    """The DAG and the run of a release, None if nothing is known of it."""
    try:
        request = services.releases.load(name).request
    except Permanent:
        return None
    return request.dag_id, request.run_id


def _position(standing: LockOutcome, claim: Claim, state: LockState) -> QueuePosition:
    holder = state.holder.release_id if state.holder else "nobody"
    match standing:
        case LockOutcome.HELD:
            return QueuePosition(QueueState.TAKEN, "holds the release lock")
        case LockOutcome.WAITING:
            return QueuePosition(QueueState.WAITING, f"waits for {holder}")
        case LockOutcome.SUPERSEDED:
            newer = [other for other in (state.waiting, state.holder) if other and other > claim]
            winner = newer[0].release_id if newer else holder
            return QueuePosition(QueueState.OVER, f"superseded by {winner}", winner)


def _version(claim: Claim) -> int | None:
    """Of a release's claim; a rollback's names no version."""
    found = _VERSION.search(claim.release_id)
    return int(found.group(1)) if found else None

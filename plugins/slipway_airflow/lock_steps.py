"""What the task `take_turn` does besides waiting: take the turn, give it back, say why it never came.

Nobody else settles a release whose first task did not succeed, nor knows how it ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from model_store.errors import Permanent
from serving.control import cooldowns, finalization, release_queue
from serving.control.queries import outcomes
from serving.control.queries.outcomes import ReleaseOutcome
from serving.control.queries.statuses import ReleaseStatus
from serving.control.release_queue import QueuePosition, QueueState
from serving.control.releases import Release
from serving.control.wiring import Services, now
from slipway_airflow import run_states
from slipway_airflow.failures import message_of

if TYPE_CHECKING:
    from airflow.sdk import Context


def acquire(services: Services, release: Release) -> QueuePosition:
    """Ask for the release's turn; when it has come, say so on the version."""
    release_queue.drop_ended(services, release.model, run_states.is_over)
    place = release_queue.acquire(services, release)
    if place.turn is QueueState.TAKEN:
        finalization.mark_releasing(services, release)
    return place


@contextmanager
def released_on_failure(context: Context, services: Services, release: Release) -> Iterator[None]:
    """The turn, or the place in front of it: no other task of a run runs after its first one failed."""
    try:
        yield
    except BaseException as error:
        release_queue.release_lock(services, release)
        cooldowns.withdraw_not_begun(services, release)
        if _is_last_attempt(context["ti"], error):
            _save(services, release, ReleaseStatus.BLOCKED, f"take_turn: {message_of(error)}")
        raise


def superseded(services: Services, release: Release, place: QueuePosition) -> None:
    """Its turn never comes."""
    cooldowns.withdraw_superseded(services, release, place.winner)
    _save(services, release, ReleaseStatus.SUPERSEDED, place.words)


def _is_last_attempt(ti: Any, error: BaseException) -> bool:
    return isinstance(error, Permanent) or ti.try_number > ti.max_tries


def _save(services: Services, release: Release, status: ReleaseStatus, why: str) -> None:
    outcomes.save(services.rows, ReleaseOutcome(release.id, status.value, why, now()))

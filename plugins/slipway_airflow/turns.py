"""What the task `take_turn` does besides waiting: take the turn, give it back, say why it never came.

Nobody else settles a release whose first task did not succeed, nor knows how it ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from model_store.errors import Permanent
from serving.control import admission, flapping, settling
from serving.control.admission import Place, Turn
from serving.control.queries import outcomes
from serving.control.queries.outcomes import Outcome
from serving.control.queries.statuses import Status
from serving.control.releases import Release
from serving.control.wiring import Services, now
from slipway_airflow import run_states
from slipway_airflow.failures import in_words

if TYPE_CHECKING:
    from airflow.sdk import Context


def take(services: Services, release: Release) -> Place:
    """Ask for the release's turn; when it has come, say so on the version."""
    admission.pass_over_the_dead(services, release.model, run_states.is_over)
    place = admission.take_turn(services, release)
    if place.turn is Turn.TAKEN:
        settling.mark_releasing(services, release)
    return place


@contextmanager
def given_back_on_failure(context: Context, services: Services, release: Release) -> Iterator[None]:
    """The turn, or the place in front of it: no other task of a run runs after its first one failed."""
    try:
        yield
    except BaseException as error:
        admission.give_up(services, release)
        flapping.not_begun(services, release)
        if _is_last_try(context["ti"], error):
            _keep(services, release, Status.BLOCKED, f"take_turn: {in_words(error)}")
        raise


def superseded(services: Services, release: Release, place: Place) -> None:
    """Its turn never comes."""
    flapping.superseded(services, release, place.winner)
    _keep(services, release, Status.SUPERSEDED, place.words)


def _is_last_try(ti: Any, error: BaseException) -> bool:
    return isinstance(error, Permanent) or ti.try_number > ti.max_tries


def _keep(services: Services, release: Release, status: Status, why: str) -> None:
    outcomes.keep(services.releases.root, release.model, Outcome(release.id, status.value, why, now()))

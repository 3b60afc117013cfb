"""What the controller answers arrives as the error that it is."""

from __future__ import annotations

import pytest

from model_store.errors import Permanent, Retryable, SlipwayError
from model_store.unwritable import DiskFull
from serving.control import wire_errors
from serving.control.release_deployment import PodsFail
from serving.control.rollbacks import AlreadyRolledBack
from serving.control.rollout.apply import NotRecorded
from serving.control.rollout.journal import UnknownRelease
from serving.gateway.router.base import UnknownService


class OfTomorrow(Retryable):
    """A kind that the other side does not know."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Permanent("no", remedy="ask otherwise"), Permanent),
        (Retryable("not now", remedy="wait", delay_seconds=7), Retryable),
        (AlreadyRolledBack("rolled back since", remedy="name it"), AlreadyRolledBack),
        (NotRecorded("not written down", remedy="make space", delay_seconds=7), NotRecorded),
        (UnknownRelease("none", remedy="check the id"), UnknownRelease),
        (UnknownService("fraud", known=["credit"]), UnknownService),
        (PodsFail("they end at start", remedy="another version"), PodsFail),
        (DiskFull("full", remedy="make room", delay_seconds=7), DiskFull),
        (OfTomorrow("soon", remedy="wait", delay_seconds=7), Retryable),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_problem_remedy_kind_and_delay_survive_the_way(error: SlipwayError, kind: type) -> None:
    arrived = wire_errors.from_json(wire_errors.to_json(error))
    assert (type(arrived), arrived.problem, arrived.remedy) == (kind, error.problem, error.remedy)
    assert str(arrived) == str(error)
    if isinstance(error, Retryable):
        assert isinstance(arrived, Retryable)
        assert arrived.delay_seconds == error.delay_seconds


@pytest.mark.parametrize("told", [{}, {"kind": "retryable"}, {"detail": "Not Found"}])
def test_what_is_no_error_of_the_controllers_is_not_taken_for_one(told: dict[str, str]) -> None:
    with pytest.raises(KeyError):
        wire_errors.from_json(told)

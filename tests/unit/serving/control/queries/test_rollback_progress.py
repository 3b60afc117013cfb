"""A rollback is told by where requests go, not by what was asked for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from serving.control.queries.rollback_progress import rollback_row
from serving.control.queries.runs import Situation
from serving.control.queries.snapshots import RollbackSnapshot
from serving.control.queries.statuses import RollbackStatus
from serving.control.queries.views import RollbackRow
from serving.gateway.router.base import RouteChange, ServedArm
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Route, Slot

NOW = datetime(2026, 11, 30, 8, 0, tzinfo=UTC)
RUN = ("model_rollback", "run-1")
BACK = RollbackSnapshot("fraud-rollback-x", "fraud", 4, 3, NOW, "ada", "users complain", "", run_id="run-1")
QUEUED, RUNNING = Situation(runs={RUN: "queued"}), Situation(runs={RUN: "running"})


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def change(version: int, seconds: float) -> RouteChange:
    return RouteChange(at(seconds), "fraud", 7, ServedArm(version, "b", 100), ServedArm(9, "c", 0))


def route(version: int) -> Route:
    return Route(
        "fraud", 7, ALL_STABLE, Deployment(DeploymentRef("fraud", Slot.BLUE, "b", version), ()), None
    )


def row(situation: Situation, *changes: RouteChange, serves: int = 4, later: float = 30) -> RollbackRow:
    return rollback_row(BACK, route=route(serves), changes=changes, situation=situation, now=at(later))


@pytest.mark.parametrize(
    ("situation", "later", "state"),
    [
        (Situation(), 1, RollbackStatus.REQUESTED),
        (QUEUED, 90, RollbackStatus.REQUESTED),
        (RUNNING, 90, RollbackStatus.UNDER_WAY),
    ],
)
def test_what_was_asked_for_is_not_done(situation: Situation, later: float, state: RollbackStatus) -> None:
    told = row(situation, later=later)
    assert (told.state, told.returned_at) == (state, None)
    assert "all requests go" not in told.words


def test_requests_are_back_when_the_route_says_so_and_since_then() -> None:
    told = row(RUNNING, change(4, 0), change(3, 12.5), serves=3)
    assert (told.state, told.returned_at) == (RollbackStatus.RETURNED, at(12.5))
    assert told.words == "all requests go to version 3 since 2026-11-30 08:00:12 UTC"
    later = row(Situation(), change(3, 12.5), change(5, 900), serves=5, later=1000)
    assert (later.state, later.returned_at) == (RollbackStatus.RETURNED, at(12.5)), (
        "a newer release came after it"
    )


def test_a_history_that_lost_a_line_hides_no_rollback() -> None:
    assert row(RUNNING, serves=3).state is RollbackStatus.RETURNED


def test_a_run_that_ended_without_moving_requests_has_failed_and_says_what_to_do() -> None:
    told = row(Situation())
    assert (told.state, told.stands_still) == (RollbackStatus.FAILED, "rollback")
    assert "`./slipway rollback fraud 3 --reason ...`" in told.way_out


def test_what_keeps_a_rollback_is_said_with_the_way_out() -> None:
    paused = row(replace(QUEUED, dags={"model_rollback": True}))
    assert (paused.stands_still, "model_rollback is paused in Airflow" in paused.words) == (
        "dag_paused",
        True,
    )
    assert "./slipway unpause model_rollback" in paused.way_out
    down = row(replace(QUEUED, silent={"scheduler": ""}))
    assert (down.stands_still, "./slipway up" in down.way_out) == ("airflow_down", True)
    assert row(replace(QUEUED, dags={"model_rollback": True}), serves=3).stands_still == ""

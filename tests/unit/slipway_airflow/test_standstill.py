"""Whatever stands still says why, and what ends that."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from serving.control import standstill
from serving.control.queries.runs import Situation, TaskWaiting
from serving.control.queries.statuses import Status
from serving.control.standstill import Facts, Kind, Seen, Standstill

RUN = ("release_fraud", "run-1")
WELL = Situation(dags={"release_fraud": False}, runs={RUN: "running"})
NAME = "fraud-v4-20261130T080000Z"
SEEN = Seen(silent_seconds=1, is_silent=False, overdue=timedelta(0), open_points="")


def facts(status: Status, situation: Situation = WELL, *, why: str = "", seen: Seen | None = None) -> Facts:
    return Facts(NAME, "fraud", status, why, RUN, situation, seen)


def waiting(
    task: str, state: str, pool: str = "default_pool", failure: str = "", **more: object
) -> Situation:
    return replace(WELL, waiting={RUN: (TaskWaiting(task, state, pool, failure),)}, **more)  # type: ignore[arg-type]


PAUSED_DAG = replace(WELL, dags={"release_fraud": True})
CASES = {
    "dag paused before it began": (
        facts(Status.QUEUED, PAUSED_DAG),
        Kind.DAG_PAUSED,
        "./slipway unpause fraud",
    ),
    "dag paused while it builds": (facts(Status.PREPARING, PAUSED_DAG), Kind.DAG_PAUSED, f"abort {NAME}"),
    "dag paused half way": (facts(Status.PAUSED, PAUSED_DAG), Kind.DAG_PAUSED, "./slipway rollback fraud"),
    "dag paused before promotion": (facts(Status.WATCHING, PAUSED_DAG), Kind.DAG_PAUSED, "rollback fraud"),
    "dag gone": (facts(Status.PREPARING, replace(WELL, dags={})), Kind.DAG_MISSING, "put the spec back"),
    "dag file broken": (
        facts(Status.PREPARING, replace(WELL, unreadable={"model_release.py": "SyntaxError: x"})),
        Kind.DAG_UNREADABLE,
        "mend the file",
    ),
    "run queued, scheduler down": (
        facts(
            Status.QUEUED, replace(WELL, runs={RUN: "queued"}, silent={"scheduler": "2026-11-30 08:00:00"})
        ),
        Kind.AIRFLOW_DOWN,
        "./slipway up",
    ),
    "triggerer down half way": (
        facts(Status.ROLLING_OUT, waiting("roll_out", "deferred", silent={"triggerer": ""}), seen=SEEN),
        Kind.AIRFLOW_DOWN,
        "./slipway up",
    ),
    "run queued": (facts(Status.QUEUED, replace(WELL, runs={RUN: "queued"})), Kind.RUN_QUEUED, "by itself"),
    "lock held": (facts(Status.QUEUED, why="waits for fraud-v3"), Kind.TURN, "./slipway abort"),
    "asks people": (
        facts(Status.WAITING, why="waits for approval by ada"),
        Kind.APPROVAL,
        "./slipway approve",
    ),
    "frozen": (facts(Status.FROZEN, why="frozen until Monday"), Kind.FREEZE, "./slipway override"),
    "paused": (facts(Status.PAUSED, why="paused by ada: lunch"), Kind.PAUSED, "./slipway resume"),
    "pool full": (
        facts(
            Status.PREPARING,
            waiting("candidates.gate", "scheduled", "slipway_builds", full_pools={"slipway_builds": 3}),
        ),
        Kind.POOL_FULL,
        "more slots",
    ),
    "no worker": (facts(Status.PREPARING, waiting("intake.export", "queued")), Kind.WORKER, "by itself"),
    "mlflow away": (
        facts(Status.PREPARING, waiting("intake.export", "up_for_retry", failure="MLflow does not answer")),
        Kind.RETRY,
        "mend",
    ),
    "pods not ready": (
        facts(Status.PREPARING, waiting("rollout.deploy", "deferred")),
        Kind.PODS,
        "./slipway status",
    ),
    "guard down": (
        facts(Status.ROLLING_OUT, seen=replace(SEEN, silent_seconds=40, is_silent=True)),
        Kind.GUARD_SILENT,
        "./slipway status",
    ),
    "evidence wanting": (
        facts(
            Status.ROLLING_OUT, seen=replace(SEEN, overdue=timedelta(hours=1), open_points="7 of 50 requests")
        ),
        Kind.EVIDENCE,
        "send it requests",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_stands_still_has_a_sentence_and_a_way_out(name: str) -> None:
    known, kind, way_out = CASES[name]
    found = standstill.of_release(known)
    assert found is not None
    assert (found.kind, way_out in found.way_out) == (kind, True), found
    assert found.words
    assert known.why in found.words


def test_every_kind_of_a_release_is_told_here() -> None:
    of_models = {Kind.ALIAS, Kind.HELD, Kind.COOLDOWN, Kind.ROLLBACK}
    assert {kind for _, kind, _ in CASES.values()} | of_models == set(Kind)


@pytest.mark.parametrize("status", Status)
def test_what_goes_on_or_is_over_is_not_said_to_stand_still(status: Status) -> None:
    has_to_wait = (Status.WAITING, Status.FROZEN, Status.PAUSED)
    found = standstill.of_release(facts(status, seen=SEEN))
    assert (found is not None) == (status in has_to_wait)
    if not status.is_under_way:
        assert standstill.of_release(facts(status, PAUSED_DAG)) is None


def test_a_release_that_airflow_knows_nothing_of_is_not_said_to_wait_for_airflow() -> None:
    unknown = replace(facts(Status.QUEUED, why="waits for fraud-v3"), situation=Situation())
    found = standstill.of_release(unknown)
    assert found is not None
    assert found.kind is Kind.TURN


def test_what_keeps_every_model_is_told_once() -> None:
    down = Situation(
        dags={"model_rollback": True, "registry_reconcile": True, "release_fraud": True},
        silent={"scheduler": "2026-11-30 08:00:00", "triggerer": ""},
        unreadable={"model_release.py": "SyntaxError: x"},
    )
    told: list[Standstill] = list(standstill.of_installation(down))
    assert [one.words.split(":")[0] for one in told] == [
        "Airflow's scheduler was last heard of at 2026-11-30 08",
        "Airflow's triggerer was never heard of",
        "model_rollback is paused in Airflow",
        "registry_reconcile is paused in Airflow",
        "Airflow cannot read model_release.py",
    ]
    assert all(one.way_out for one in told)
    assert not list(standstill.of_installation(WELL))

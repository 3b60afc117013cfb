"""Whatever stands still says why, and what ends that."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from serving.control import blockers
from serving.control.blockers import Blocker, BlockerKind, ControllerReport, ReleaseFacts
from serving.control.queries.runs import Situation, TaskWaiting
from serving.control.queries.statuses import ReleaseStatus

RUN = ("release_fraud", "run-1")
WELL = Situation(dags={"release_fraud": False}, runs={RUN: "running"})
NAME = "fraud-v4-20261130T080000Z"
SEEN = ControllerReport(silent_seconds=1, is_silent=False, overdue=timedelta(0), open_points="")


def facts(
    status: ReleaseStatus, situation: Situation = WELL, *, why: str = "", seen: ControllerReport | None = None
) -> ReleaseFacts:
    return ReleaseFacts(NAME, "fraud", status, why, RUN, situation, seen)


def waiting(
    task: str, state: str, pool: str = "default_pool", failure: str = "", **more: object
) -> Situation:
    return replace(WELL, waiting={RUN: (TaskWaiting(task, state, pool, failure),)}, **more)  # type: ignore[arg-type]


PAUSED_DAG = replace(WELL, dags={"release_fraud": True})
CASES = {
    "dag paused before it began": (
        facts(ReleaseStatus.QUEUED, PAUSED_DAG),
        BlockerKind.DAG_PAUSED,
        "./slipway unpause fraud",
    ),
    "dag paused while it builds": (
        facts(ReleaseStatus.PREPARING, PAUSED_DAG),
        BlockerKind.DAG_PAUSED,
        f"abort {NAME}",
    ),
    "dag paused half way": (
        facts(ReleaseStatus.PAUSED, PAUSED_DAG),
        BlockerKind.DAG_PAUSED,
        "./slipway rollback fraud",
    ),
    "dag paused before promotion": (
        facts(ReleaseStatus.WATCHING, PAUSED_DAG),
        BlockerKind.DAG_PAUSED,
        "rollback fraud",
    ),
    "dag gone": (
        facts(ReleaseStatus.PREPARING, replace(WELL, dags={})),
        BlockerKind.DAG_MISSING,
        "put the spec back",
    ),
    "dag file broken": (
        facts(ReleaseStatus.PREPARING, replace(WELL, unreadable={"model_release.py": "SyntaxError: x"})),
        BlockerKind.DAG_UNREADABLE,
        "mend the file",
    ),
    "run queued, scheduler down": (
        facts(
            ReleaseStatus.QUEUED,
            replace(WELL, runs={RUN: "queued"}, silent={"scheduler": "2026-11-30 08:00:00"}),
        ),
        BlockerKind.AIRFLOW_DOWN,
        "./slipway up",
    ),
    "triggerer down after promotion": (
        facts(ReleaseStatus.WATCHING, waiting("roll_out", "deferred", silent={"triggerer": ""}), seen=SEEN),
        BlockerKind.AIRFLOW_DOWN,
        "./slipway up",
    ),
    "run queued": (
        facts(ReleaseStatus.QUEUED, replace(WELL, runs={RUN: "queued"})),
        BlockerKind.RUN_QUEUED,
        "by itself",
    ),
    "lock held": (facts(ReleaseStatus.QUEUED, why="waits for fraud-v3"), BlockerKind.TURN, "./slipway abort"),
    "asks people": (
        facts(ReleaseStatus.WAITING, why="waits for approval by ada"),
        BlockerKind.APPROVAL,
        "./slipway approve",
    ),
    "frozen": (
        facts(ReleaseStatus.FROZEN, why="frozen until Monday"),
        BlockerKind.FREEZE,
        "./slipway override",
    ),
    "paused": (
        facts(ReleaseStatus.PAUSED, why="paused by ada: lunch"),
        BlockerKind.PAUSED,
        "./slipway resume",
    ),
    "pool full": (
        facts(
            ReleaseStatus.PREPARING,
            waiting("candidates.gate", "scheduled", "slipway_builds", full_pools={"slipway_builds": 3}),
        ),
        BlockerKind.POOL_FULL,
        "more slots",
    ),
    "no worker": (
        facts(ReleaseStatus.PREPARING, waiting("intake.export", "queued")),
        BlockerKind.WORKER,
        "by itself",
    ),
    "mlflow away": (
        facts(
            ReleaseStatus.PREPARING,
            waiting("intake.export", "up_for_retry", failure="MLflow does not answer"),
        ),
        BlockerKind.RETRY,
        "mend",
    ),
    "pods not ready": (
        facts(ReleaseStatus.PREPARING, waiting("rollout.roll_out", "deferred")),
        BlockerKind.PODS,
        "./slipway status",
    ),
    "controller down": (
        facts(ReleaseStatus.ROLLING_OUT, seen=replace(SEEN, silent_seconds=40, is_silent=True)),
        BlockerKind.CONTROLLER_SILENT,
        "./slipway status",
    ),
    "evidence wanting": (
        facts(
            ReleaseStatus.ROLLING_OUT,
            seen=replace(SEEN, overdue=timedelta(hours=1), open_points="7 of 50 requests"),
        ),
        BlockerKind.EVIDENCE,
        "send it requests",
    ),
}


def test_a_rollout_goes_on_whatever_of_airflow_is_down() -> None:
    down = waiting("roll_out", "deferred", silent={"triggerer": "", "scheduler": ""})
    assert blockers.of_release(facts(ReleaseStatus.ROLLING_OUT, down, seen=SEEN)) is None


@pytest.mark.parametrize("name", CASES)
def test_what_stands_still_has_a_sentence_and_a_way_out(name: str) -> None:
    known, kind, way_out = CASES[name]
    found = blockers.of_release(known)
    assert found is not None
    assert (found.kind, way_out in found.way_out) == (kind, True), found
    assert found.words
    assert known.why in found.words


def test_every_kind_of_a_release_is_told_here() -> None:
    of_models = {BlockerKind.ALIAS, BlockerKind.HELD, BlockerKind.COOLDOWN, BlockerKind.ROLLBACK}
    assert {kind for _, kind, _ in CASES.values()} | of_models == set(BlockerKind)


@pytest.mark.parametrize("status", ReleaseStatus)
def test_what_goes_on_or_is_over_is_not_said_to_stand_still(status: ReleaseStatus) -> None:
    has_to_wait = (ReleaseStatus.WAITING, ReleaseStatus.FROZEN, ReleaseStatus.PAUSED)
    found = blockers.of_release(facts(status, seen=SEEN))
    assert (found is not None) == (status in has_to_wait)
    if not status.is_under_way:
        assert blockers.of_release(facts(status, PAUSED_DAG)) is None


def test_a_release_that_airflow_knows_nothing_of_is_not_said_to_wait_for_airflow() -> None:
    unknown = replace(facts(ReleaseStatus.QUEUED, why="waits for fraud-v3"), situation=Situation())
    found = blockers.of_release(unknown)
    assert found is not None
    assert found.kind is BlockerKind.TURN


def test_what_keeps_every_model_is_told_once() -> None:
    down = Situation(
        dags={"model_rollback": True, "registry_reconcile": True, "release_fraud": True},
        silent={"scheduler": "2026-11-30 08:00:00", "triggerer": ""},
        unreadable={"model_release.py": "SyntaxError: x"},
    )
    told: list[Blocker] = list(blockers.of_installation(down))
    assert [one.words.split(":")[0] for one in told] == [
        "Airflow's scheduler was last heard of at 2026-11-30 08",
        "Airflow's triggerer was never heard of",
        "model_rollback is paused in Airflow",
        "registry_reconcile is paused in Airflow",
        "Airflow cannot read model_release.py",
    ]
    assert all(one.way_out for one in told)
    assert not list(blockers.of_installation(WELL))

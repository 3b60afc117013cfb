"""Reading what a release left behind."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
import pytest

from demo.evidence import MlflowRuns, rollback_of, step_seconds
from demo.facts import Happening
from demo.traffic_log import Entry, TrafficLog
from model_store.errors import Permanent
from serving.control.rollout.record import Record
from serving.home import Home
from serving.local_stack.airflow_api import TaskRun
from serving.types import Counts, Outcome, Verdict

START = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)


def record(seconds: float, *, errors: int) -> Record:
    at = START + timedelta(seconds=seconds)
    return Record(
        at=at,
        monotonic=seconds,
        place=1,
        share=0.05,
        settled=True,
        retries_on_stable=True,
        step_seconds=seconds,
        stable=Counts(100, 0, 0, seconds),
        candidate=Counts(10, errors, 0, seconds),
        raw={},
        verdict=Verdict(Outcome.INCONCLUSIVE, (), at),
    )


def happenings(seconds: float) -> list[Happening]:
    return [
        Happening(START, "started", ""),
        Happening(START + timedelta(seconds=seconds), "rolled back", "too many errors"),
    ]


def log(*answered_at: float) -> TrafficLog:
    entries = [Entry(START.timestamp() + at, 0.0, "ok", 4, correct=True) for at in answered_at]
    return TrafficLog(tuple(entries), len(entries))


def test_the_first_failed_answer_is_dated_by_the_last_look_that_had_counted_none() -> None:
    records = [record(1, errors=0), record(2, errors=0), record(3, errors=2), record(4, errors=5)]
    found = rollback_of(happenings(4), records, log(3.5), version=4)
    assert found.seconds == pytest.approx(2.0)


def test_an_answer_after_the_route_was_written_lengthens_the_rollback() -> None:
    records = [record(2, errors=0), record(3, errors=2)]
    found = rollback_of(happenings(4), records, log(4.5), version=4)
    assert found.seconds == pytest.approx(2.5)


def test_a_rollback_without_errors_has_no_first_failed_answer() -> None:
    found = rollback_of(happenings(4), [record(1, errors=0), record(2, errors=0)], log(), version=4)
    assert found.first_error_after is None
    assert found.seconds is None


def test_answers_of_other_versions_say_nothing_about_it() -> None:
    found = rollback_of(happenings(4), [record(1, errors=0), record(2, errors=1)], log(9), version=3)
    assert found.last_answer_at is None


def test_a_mapped_step_takes_from_its_first_start_to_its_last_end() -> None:
    tasks = [
        task("candidates.gate", 0, 2.0, 5.0),
        task("candidates.gate", 1, 3.0, 7.5),
        task("bundle.choose", -1, 8.0, 8.5),
        TaskRun("rollout.roll_out", -1, 1, "deferred", START.isoformat()),
        TaskRun("rollout.promote", -1, 0, "upstream_failed", START.isoformat(), START.isoformat()),
    ]
    assert step_seconds(tasks) == {"gate": 5.5, "choose": 0.5}


def task(task_id: str, index: int, began: float, ended: float) -> TaskRun:
    times = [(START + timedelta(seconds=at)).isoformat() for at in (began, ended)]
    return TaskRun(task_id, index, 1, "success", *times)


def test_metrics_and_artifacts_are_read_from_mlflow(home: Home, tmp_path: Path) -> None:
    (tmp_path / "gates.json").write_text(json.dumps([{"variant": 1}]))
    mlflow.set_tracking_uri(home.mlflow_url)
    mlflow.set_experiment("slipway/credit_risk")
    with mlflow.start_run() as run:
        mlflow.log_metric("accuracy", 0.8125)
        mlflow.log_artifact(str(tmp_path / "gates.json"))
    with MlflowRuns(home) as runs:
        assert runs.metric(run.info.run_id, "accuracy") == 0.8125
        assert runs.artifact(run.info.run_id, "gates.json") == [{"variant": 1}]
        with pytest.raises(Permanent, match="no metric 'auc'"):
            runs.metric(run.info.run_id, "auc")
        with pytest.raises(Permanent, match=r"timeline\.json"):
            runs.artifact(run.info.run_id, "timeline.json")

"""Reading what a release left behind."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
import pytest

from demo.clients import Json, Registry
from demo.evidence import rollback_of, step_seconds
from demo.facts import Happening
from demo.place import DemoHome
from demo.traffic_log import Entry, TrafficLog
from serving.control.rollout.record import Record
from serving.types import Counts, Outcome, Verdict

START = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)


def look(seconds: float, *, errors: int) -> Json:
    """A line of verdicts.jsonl, as the product writes it."""
    at = START + timedelta(seconds=seconds)
    made = Record(
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
    line: Json = json.loads(json.dumps(made.to_json()))
    return line


def happenings(seconds: float) -> list[Happening]:
    return [
        Happening(START, "started", ""),
        Happening(START + timedelta(seconds=seconds), "rolled back", "too many errors"),
    ]


def log(*answered_at: float) -> TrafficLog:
    entries = [Entry(START.timestamp() + at, 0.0, "ok", 4, correct=True) for at in answered_at]
    return TrafficLog(tuple(entries), len(entries))


def test_the_first_failed_answer_is_dated_by_the_last_look_that_had_counted_none() -> None:
    looks = [look(1, errors=0), look(2, errors=0), look(3, errors=2), look(4, errors=5)]
    found = rollback_of(happenings(4), looks, log(3.5), version=4)
    assert found.seconds == pytest.approx(2.0)


def test_an_answer_after_the_route_was_written_lengthens_the_rollback() -> None:
    looks = [look(2, errors=0), look(3, errors=2)]
    found = rollback_of(happenings(4), looks, log(4.5), version=4)
    assert found.seconds == pytest.approx(2.5)


def test_a_rollback_without_errors_has_no_first_failed_answer() -> None:
    found = rollback_of(happenings(4), [look(1, errors=0), look(2, errors=0)], log(), version=4)
    assert found.first_error_after is None
    assert found.seconds is None


def test_answers_of_other_versions_say_nothing_about_it() -> None:
    found = rollback_of(happenings(4), [look(1, errors=0), look(2, errors=1)], log(9), version=3)
    assert found.last_answer_at is None


def test_a_mapped_step_takes_from_its_first_start_to_its_last_end() -> None:
    tasks = [
        task("candidates.gate", 0, 2.0, 5.0),
        task("candidates.gate", 1, 3.0, 7.5),
        task("bundle.choose", -1, 8.0, 8.5),
        task("rollout.roll_out", -1, 0.0, None, state="deferred"),
        task("rollout.promote", -1, 0.0, 0.0, state="upstream_failed"),
    ]
    assert step_seconds(tasks) == {"gate": 5.5, "choose": 0.5}


def task(task_id: str, index: int, began: float, ended: float | None, *, state: str = "success") -> Json:
    times = [None if at is None else (START + timedelta(seconds=at)).isoformat() for at in (began, ended)]
    return {
        "task_id": task_id,
        "map_index": index,
        "state": state,
        "start_date": times[0],
        "end_date": times[1],
    }


def test_metrics_and_artifacts_are_read_from_mlflow(home: DemoHome, tmp_path: Path) -> None:
    (tmp_path / "gates.json").write_text(json.dumps([{"variant": 1}]))
    (tmp_path / "verdicts.jsonl").write_text('{"place": 1}\n{"place": 2}\n')
    mlflow.set_tracking_uri(home.mlflow_url)
    mlflow.set_experiment("slipway/credit_risk")
    with mlflow.start_run() as run:
        mlflow.log_metric("accuracy", 0.8125)
        mlflow.log_artifact(str(tmp_path / "gates.json"))
        mlflow.log_artifact(str(tmp_path / "verdicts.jsonl"))
    with closing(Registry(home.mlflow_url)) as registry:
        assert registry.metric(run.info.run_id, "accuracy") == 0.8125
        assert registry.metric(run.info.run_id, "auc") is None
        assert registry.artifact(run.info.run_id, "gates.json") == [{"variant": 1}]
        assert registry.artifact(run.info.run_id, "verdicts.jsonl") == [{"place": 1}, {"place": 2}]
        assert registry.artifact(run.info.run_id, "timeline.json") is None

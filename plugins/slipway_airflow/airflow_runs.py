"""What Airflow itself knows of releases: the tasks of a run, and the questions that wait for people.

Runs in Airflow's API server, which may use its database; the columns that are read are those of its REST API.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.hitl import HITLDetail
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.orm import Session

from serving.control.queries.runs import ModelDag, Question, RunSnapshot, Situation, TaskSnapshot
from serving.control.specs import PREFIX
from slipway_airflow import airflow_situation

GATE, PUBLISH = "candidates.gate", "bundle.publish"


class AirflowRuns:
    """Each call is one short session."""

    def run(self, dag_id: str, run_id: str) -> RunSnapshot | None:
        """A run with its tasks, None when Airflow has none of that name (any more)."""
        with create_session() as session:
            columns = (DagRun.state, DagRun.start_date, DagRun.end_date)
            found = session.execute(
                select(*columns).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
            ).first()
            if found is None:
                return None
            values = _values(session, dag_id, run_id)
            return RunSnapshot(
                state=str(found[0]),
                started_at=found[1],
                ended_at=found[2],
                tasks=_tasks(session, dag_id, run_id),
                gated=tuple(value for task, value in values if task == GATE),
                bundle_id=next((value for task, value in values if task == PUBLISH), ""),
            )

    def questions(self) -> list[Question]:
        """Everything of releases that waits for people, the oldest first."""
        with create_session() as session:
            return [_question(*found) for found in session.execute(_waiting())]

    def situation(self) -> Situation:
        """What of Airflow can keep releases from going on; and every run of theirs that is not over."""
        return airflow_situation.situation()

    def models(self) -> dict[str, ModelDag]:
        """By model, every DAG that releases one."""
        columns = (DagModel.dag_id, DagModel.description, DagModel.is_paused, DagModel.timetable_summary)
        wanted = select(*columns).where(DagModel.dag_id.startswith(PREFIX), DagModel.is_stale.is_(False))
        with create_session() as session:
            dags = [ModelDag(*map(_or_empty, found)) for found in session.execute(wanted)]
        return {dag.dag_id.removeprefix(PREFIX): dag for dag in dags}


def _tasks(session: Session, dag_id: str, run_id: str) -> tuple[TaskSnapshot, ...]:
    task = TaskInstance
    columns: tuple[Any, ...] = (
        task.task_id,
        task.map_index,
        task.state,
        task.start_date,
        task.end_date,
        task.try_number,
        task.rendered_map_index,
    )
    found = session.execute(select(*columns).where(task.dag_id == dag_id, task.run_id == run_id))
    return tuple(
        TaskSnapshot(name, index, str(state or "none"), start, end, tries or 0, words or "")
        for name, index, state, start, end, tries, words in found
    )


def _values(session: Session, dag_id: str, run_id: str) -> list[tuple[str, str]]:
    """(task, value) of what gates and publish returned, in the order of the mapped instances."""
    xcom = XComModel
    wanted = (
        select(xcom.task_id, xcom.value)
        .where(xcom.dag_id == dag_id, xcom.run_id == run_id, xcom.key == "return_value")
        .where(xcom.task_id.in_([GATE, PUBLISH]))
        .order_by(xcom.map_index)
    )
    return [(task, airflow_situation.text_of(value)) for task, value in session.execute(wanted)]


def _waiting() -> Any:
    task = TaskInstance
    return (
        select(
            task.dag_id,
            task.run_id,
            task.task_id,
            HITLDetail.subject,
            HITLDetail.created_at,
            task.trigger_timeout,
            HITLDetail.assignees,
            HITLDetail.params,
        )
        .join(task, task.id == HITLDetail.ti_id)
        .where(HITLDetail.responded_at.is_(None), task.dag_id.startswith(PREFIX))
        .where(task.state.in_(["awaiting_input", "deferred"]))
        .order_by(HITLDetail.created_at)
    )


def _question(
    dag_id: str,
    run_id: str,
    task_id: str,
    subject: str,
    asked_at: datetime,
    until: datetime | None,
    assignees: Sequence[Mapping[str, str]] | None,
    params: Mapping[str, Any] | None,
) -> Question:
    who = tuple(each["name"] for each in assignees or ())
    return Question(dag_id, run_id, task_id, subject, asked_at, until, who, bundle_shown(params))


def bundle_shown(params: Mapping[str, Any] | None) -> str:
    """The bundle that a request's form names; empty in requests of before that was so."""
    field = (params or {}).get("bundle")
    return str((field.get("value") if isinstance(field, Mapping) else field) or "")


def _or_empty(value: Any) -> Any:
    return "" if value is None else value

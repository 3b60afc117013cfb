"""What of Airflow itself can keep a release from going on, from Airflow's database.

Runs in Airflow's API server. One look asks for all releases at once: pages ask again every second.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from airflow.api.common.airflow_health import HEALTHY, get_airflow_health
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.errors import ParseImportError
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from serving.control.queries.runs import RunKey, Situation, TaskWaiting
from serving.control.specs import PREFIX
from slipway_airflow.failures import FAILURE

# The DAGs that no model has for itself.
OURS = ("model_rollback", "registry_reconcile", "deliver_notifications", "store_upkeep")
FILES = ("model_release.py", *(f"{dag_id}.py" for dag_id in OURS))
_UNDER_WAY = ("queued", "running")
# A task in one of these has begun to wait for something of Airflow's.
_WAITING = ("scheduled", "queued", "deferred", "up_for_retry")


def text_of(value: Any) -> str:
    """What XCom keeps: JSON, as text or decoded, as the database has it."""
    try:
        decoded = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return str(value)
    return decoded if isinstance(decoded, str) else "" if decoded is None else str(decoded)


def paused_dags() -> frozenset[str]:
    """Those of ours that somebody paused."""
    with create_session() as session:
        return frozenset(session.scalars(select(DagModel.dag_id).where(_of_ours(), DagModel.is_paused)))


def situation() -> Situation:
    """As it is now."""
    with create_session() as session:
        return Situation(
            dags=_dags(session),
            unreadable=_unreadable(session),
            silent=_silent(),
            full_pools=_full_pools(session),
            runs=_runs(session),
            waiting=_waiting(session),
        )


def _of_ours(column: Any = DagModel.dag_id) -> Any:
    return or_(column.startswith(PREFIX), column.in_(OURS))


def _dags(session: Session) -> Mapping[str, bool]:
    wanted = select(DagModel.dag_id, DagModel.is_paused).where(_of_ours(), DagModel.is_stale.is_(False))
    return {dag_id: bool(is_paused) for dag_id, is_paused in session.execute(wanted)}


def _unreadable(session: Session) -> Mapping[str, str]:
    """By name of the file, the last line of why Airflow cannot read it."""
    found = session.execute(select(ParseImportError.filename, ParseImportError.stacktrace))
    named = ((PurePath(path or "").name, (trace or "").strip().splitlines()) for path, trace in found)
    return {name: lines[-1] if lines else "" for name, lines in named if name in FILES}


def _silent() -> Mapping[str, str]:
    """By name, the parts of Airflow that are down, and when they were last heard of: empty if never."""
    health = get_airflow_health()
    parts = ("scheduler", "triggerer", "dag_processor")
    return {
        part.replace("_", "-"): str(health[part][f"latest_{part}_heartbeat"] or "")[:19].replace("T", " ")
        for part in parts
        if health[part]["status"] != HEALTHY
    }


def _full_pools(session: Session) -> Mapping[str, int]:
    """By name, the pools without a free slot, and how many they have."""
    stats = Pool.slots_stats(session=session)
    return {name: int(pool["total"]) for name, pool in stats.items() if pool["open"] <= 0}


def _runs(session: Session) -> Mapping[RunKey, str]:
    columns = (DagRun.dag_id, DagRun.run_id, DagRun.state)
    wanted = select(*columns).where(_of_ours(DagRun.dag_id), DagRun.state.in_(_UNDER_WAY))
    return {(dag_id, run_id): str(state) for dag_id, run_id, state in session.execute(wanted)}


def _waiting(session: Session) -> Mapping[RunKey, tuple[TaskWaiting, ...]]:
    task = TaskInstance
    columns: tuple[Any, ...] = (
        task.dag_id,
        task.run_id,
        task.task_id,
        task.state,
        task.pool,
        XComModel.value,
    )
    of_runs = DagRun.state.in_(_UNDER_WAY) & _of_ours(DagRun.dag_id)
    failed = and_(
        XComModel.dag_id == task.dag_id,
        XComModel.run_id == task.run_id,
        XComModel.task_id == task.task_id,
        XComModel.map_index == task.map_index,
        XComModel.key == FAILURE,
    )
    wanted = select(*columns).join(task.dag_run).outerjoin(XComModel, failed)
    found: dict[RunKey, list[TaskWaiting]] = defaultdict(list)
    for dag_id, run_id, task_id, state, pool, value in session.execute(
        wanted.where(of_runs, task.state.in_(_WAITING))
    ):
        found[dag_id, run_id].append(TaskWaiting(task_id, str(state), pool, text_of(value)))
    return {run: tuple(tasks) for run, tasks in found.items()}

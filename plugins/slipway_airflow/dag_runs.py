"""DAG runs, in the API server's own process: started and ended as Airflow's own API does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from airflow.api.common.mark_tasks import set_dag_run_state_to_failed
from airflow.api.common.trigger_dag import trigger_dag
from airflow.configuration import conf
from airflow.exceptions import DagNotFound, DagRunAlreadyExists
from airflow.models.dag import DagModel
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import select

from model_store.release_spec import InvalidSpec, ReleaseSpec, load, load_all
from serving.control.specs import REFUSED, dag_id_of, wanted
from serving.web.problems import Conflict, NotFound

UNDER_WAY = (DagRunState.QUEUED, DagRunState.RUNNING)


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A DAG run. `again`: it had been started before, by a request with the same key."""

    dag_id: str
    run_id: str
    at: datetime
    again: bool = False

    @property
    def url(self) -> str:
        base = conf.get("api", "base_url", fallback="/").rstrip("/")
        return f"{base}/dags/{self.dag_id}/runs/{self.run_id}"


def spec_of(model: str, sees: Callable[[str], bool]) -> ReleaseSpec:
    """The model's spec in the DAG folder. Raises `NotThere` listing those that there are and one `sees`."""
    folder = Path(conf.get_mandatory_value("core", "dags_folder")) / "releases"
    loaded = wanted(folder, dag_id_of(model))
    for spec in loaded.specs:
        if spec.model == model:
            return spec
    for problem in loaded.problems:
        if problem.path.stem == model:
            complaint = problem.complaints[0]
            raise Conflict(f"the spec of {model} is refused: {complaint}", remedy=f"fix {problem.path.name}")
    known = ", ".join([spec.model for spec in load_all(folder).specs if sees(spec.model)][:20])
    raise NotFound(
        f"no model {model} is released by Slipway", remedy=f"models with a spec: {known or 'none'}"
    )


def complaints_about(model: str) -> tuple[str, ...]:
    """Why the model's spec is refused; nothing if it is not, or if its file is called otherwise."""
    folder = Path(conf.get_mandatory_value("core", "dags_folder")) / "releases"
    path = folder / f"{model.removesuffix(REFUSED)}.yaml"
    try:
        about = path.stat()
    except (OSError, ValueError):
        return ()
    return _complaints(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=256)
def _complaints(path: Path, changed_ns: int, size: int) -> tuple[str, ...]:
    """Of the file as it was then: to read it takes longer than to show the page."""
    try:
        load(path)
    except InvalidSpec as problem:
        return tuple(map(str, problem.complaints))
    except OSError:
        pass
    return ()


def run_id_of(key: str | None, by: str, at: datetime) -> str:
    """The same for the same person's same key: Airflow takes a run id only once."""
    if key is None:
        return f"slipway__{at:%Y-%m-%dT%H:%M:%S.%f}"
    return f"slipway__{hashlib.sha256(f'{by}:{key}'.encode()).hexdigest()[:32]}"


def start(
    dag_id: str,
    run_id: str,
    said: Mapping[str, Any],
    *,
    by: str,
    at: datetime,
    before: Callable[[], None],
) -> StartedRun:
    """Start a run; `before` is called when nothing can go wrong any more but the commit.

    Raises `Conflict` when Airflow has no such DAG (yet).
    """
    try:
        with create_session(scoped=False) as session:
            trigger_dag(
                dag_id,
                triggered_by=DagRunTriggeredByType.REST_API,
                triggering_user_name=by,
                run_after=at,
                run_id=run_id,
                conf=dict(said),
                note=str(said.get("reason", ""))[:1000],
                session=session,
            )
            session.flush()
            before()
    except DagRunAlreadyExists as known:
        return StartedRun(dag_id, run_id, known.dag_run.run_after, again=True)
    except DagNotFound as unknown:
        raise Conflict(
            f"Airflow has no DAG {dag_id} yet",
            remedy="wait until it has read the spec, or see its import errors",
        ) from unknown
    return StartedRun(dag_id, run_id, at)


def state_of(dag_id: str, run_id: str) -> str | None:
    """queued, running, success, failed; None when there is no such run (any more)."""
    with create_session(scoped=False) as session:
        found = session.scalar(select(DagRun.state).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
    return str(found) if found else None


def under_way(dag_id: str) -> list[DagRun]:
    """Runs that have not ended, the oldest first."""
    with create_session(scoped=False) as session:
        wanted_runs = select(DagRun).where(DagRun.dag_id == dag_id, DagRun.state.in_(UNDER_WAY))
        found = list(session.scalars(wanted_runs.order_by(DagRun.run_after)))
        session.expunge_all()
    return found


def is_paused(dag_id: str) -> bool:
    """Whether somebody paused the DAG in Airflow, so that runs only queue."""
    with create_session(scoped=False) as session:
        return bool(session.scalar(select(DagModel.is_paused).where(DagModel.dag_id == dag_id)))


def end(dag_id: str, run_id: str) -> bool:
    """Fail a run that has not ended: running tasks are killed, teardowns still run. False: it had ended."""
    with create_session(scoped=False) as session:
        run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        if run is None or run.state not in UNDER_WAY:
            return False
        dag = DBDagBag().get_dag_for_run(run, session=session)
        if dag is None:
            return False
        set_dag_run_state_to_failed(dag=dag, run_id=run_id, commit=True, session=session)
    return True

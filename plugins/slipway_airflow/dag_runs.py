"""DAGs and their runs, in the API server's own process: started and ended as Airflow's own API does.

This is `serving.web.ports.Dags`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.api.common.mark_tasks import set_dag_run_state_to_failed
from airflow.api.common.trigger_dag import trigger_dag
from airflow.assets.manager import asset_manager
from airflow.configuration import conf
from airflow.exceptions import DagNotFound, DagRunAlreadyExists
from airflow.models.asset import AssetModel
from airflow.models.dag import DagModel
from airflow.models.dagbag import DBDagBag
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import select
from sqlalchemy.orm import Session

from model_store.types import ModelRef
from serving.control.specs import PREFIX
from serving.web.ports import UNDER_WAY, OpenRun, StartedRun
from serving.web.problems import Conflict
from slipway_airflow.assets import registry_name


def specs() -> Path:
    """The folder of release specs."""
    return Path(conf.get_mandatory_value("core", "dags_folder")) / "releases"


def released_models() -> set[str]:
    """Those with a release DAG."""
    with create_session(scoped=False) as session:
        names = session.scalars(select(DagModel.dag_id).where(DagModel.dag_id.startswith(PREFIX)))
        return {name.removeprefix(PREFIX) for name in names}


def alias_of(model: str) -> str | None:
    """The alias whose version is released, as the model's DAG says; None when no DAG releases the model."""
    with create_session(scoped=False) as session:
        asset = _asset(session, model)
        return str(asset.extra["alias"]) if asset is not None and asset.active is not None else None


def announce(ref: ModelRef, kind: str) -> None:
    """An event of the model's asset, as if it came by Airflow's own REST API."""
    with create_session(scoped=False) as session:
        asset_manager.register_asset_change(
            asset=_asset(session, ref.name),
            extra={"model": ref.name, "version": str(ref.version), "event": kind},
            source_is_api=True,
            session=session,
        )


def _asset(session: Session, model: str) -> Any:
    return session.scalar(select(AssetModel).where(AssetModel.name == registry_name(model)))


def start(
    dag_id: str,
    run_id: str,
    said: Mapping[str, Any],
    *,
    by: str,
    at: datetime,
    before: Callable[[], None],
) -> StartedRun:
    """Start a run, as `serving.web.ports.Dags` says."""
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
        return StartedRun(dag_id, run_id, known.dag_run.run_after, _url(dag_id, run_id), again=True)
    except DagNotFound as unknown:
        raise Conflict(
            f"Airflow has no DAG {dag_id} yet",
            remedy="wait until it has read the spec, or see its import errors",
        ) from unknown
    return StartedRun(dag_id, run_id, at, _url(dag_id, run_id))


def _url(dag_id: str, run_id: str) -> str:
    base = conf.get("api", "base_url", fallback="/").rstrip("/")
    return f"{base}/dags/{dag_id}/runs/{run_id}"


def state_of(dag_id: str, run_id: str) -> str | None:
    """queued, running, success, failed; None when there is no such run (any more)."""
    with create_session(scoped=False) as session:
        found = session.scalar(select(DagRun.state).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
    return str(found) if found else None


def under_way(dag_id: str) -> list[OpenRun]:
    """Runs that have not ended, the oldest first."""
    with create_session(scoped=False) as session:
        wanted = select(DagRun).where(DagRun.dag_id == dag_id, DagRun.state.in_(UNDER_WAY))
        found = session.scalars(wanted.order_by(DagRun.run_after))
        return [
            OpenRun(run.run_id, run.conf or {}, run.triggering_user_name or "", run.run_after)
            for run in found
        ]


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

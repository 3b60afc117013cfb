"""The REST API before a world in memory: releases under way, and Airflow's records of their runs."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Any

from model_store.release_spec import load
from serving.control import release_deployment
from serving.control.release_queue import acquire
from serving.control.releases import Release, Request
from serving.control.wiring import now
from tests.airflow.world import MODEL, SPEC, World

API = "/slipway/api/v1"
APPROVED = "approved"


def under_way(world: World, version: int = 2) -> Release:
    """A release at its first step, of a model whose version 1 serves."""
    world.serve(1)
    release = world.release(version)
    acquire(world.services, release)
    deployment = release_deployment.deploy(world.services, release, world.bundle(version).id)
    world.rollouts.start(release.id, deployment.id)
    world.tick(release.id)
    return release


BUNDLE, OTHER_BUNDLE = "b" * 24, "c" * 24


def waiting_for_approval(
    world: World, *, allowed: tuple[str, ...] = ("ada", "grace"), until: datetime | None = None
) -> Release:
    """A release of the model `approved` whose run waits at its first request, about `BUNDLE`."""
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from airflow.utils.state import TaskInstanceState
    from slipway_airflow import dag_runs

    at = now()
    run_id = f"asked-{at.timestamp()}"
    request = Request(f"release_{APPROVED}", run_id, at, "2", "better", "rita", False)
    release = world.releases.open(request, load(SPEC.parent / f"{APPROVED}.yaml"), lambda _: 2)
    dag_runs.start(f"release_{APPROVED}", run_id, {"version": "2"}, by="rita", at=at, before=lambda: None)
    with create_session(scoped=False) as session:
        of_run = session.query(TaskInstance).filter(TaskInstance.run_id == run_id)
        instance = of_run.filter(TaskInstance.task_id == "approval.approve_1").one()
        instance.state = TaskInstanceState.AWAITING_INPUT
        instance.trigger_timeout = until or at + timedelta(hours=1)
        session.add(
            HITLDetail(
                ti_id=instance.id,
                options=["Approve", "Reject"],
                subject="May it?",
                defaults=["Reject"],
                params={"reason": {"value": ""}, "bundle": {"value": BUNDLE}},
                assignees=[{"id": name, "name": name} for name in allowed],
            )
        )
    return release


def answer_of(release: Release) -> Any:
    """Airflow's record of the first request."""
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    with create_session(scoped=False) as session:
        query = session.query(HITLDetail).join(TaskInstance, HITLDetail.ti_id == TaskInstance.id)
        found = query.filter(TaskInstance.run_id == release.request.run_id).one()
        session.expunge_all()
    return found


def ask_about(release: Release, bundle: str) -> None:
    """The run was repeated, built this bundle, and waits at its first request again."""
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    with create_session(scoped=False) as session:
        query = session.query(HITLDetail).join(TaskInstance, HITLDetail.ti_id == TaskInstance.id)
        found = query.filter(TaskInstance.run_id == release.request.run_id).one()
        found.params = {"reason": {"value": ""}, "bundle": {"value": bundle}}
        found.responded_at = found.responded_by = found.chosen_options = None
        found.task_instance.state = "awaiting_input"


def clear_request(release: Release) -> None:
    """Somebody cleared the run, and its task did not get to ask again yet."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    with create_session(scoped=False) as session:
        of_run = session.query(TaskInstance).filter(TaskInstance.run_id == release.request.run_id)
        instance = of_run.filter(TaskInstance.task_id == "approval.approve_1").one()
        instance.prepare_db_for_next_try(session)
        instance.state = None


def run_states(dag_id: str) -> list[str]:
    """Of every run of the DAG, the oldest first."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session(scoped=False) as session:
        found = session.query(DagRun).filter(DagRun.dag_id == dag_id).order_by(DagRun.run_after, DagRun.id)
        return [str(run.state) for run in found]


def tasks_left(dag_id: str) -> set[str]:
    """Tasks of the DAG's runs that are still to do."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    with create_session(scoped=False) as session:
        found = session.query(TaskInstance).filter(TaskInstance.dag_id == dag_id)
        return {ti.task_id for ti in found if str(ti.state) not in ("skipped", "failed", "success")}


def forget_runs() -> None:
    """No DAG ever ran."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session(scoped=False) as session:
        session.query(DagRun).delete()


def everything(world: World) -> dict[str, str]:
    """What a refused request must leave as it is: every file, route and run."""
    files = {
        str(path.relative_to(world.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in world.root.rglob("*")
        if path.is_file() and not path.name.endswith("lock")
    }
    routes = {f"route {name}": repr(world.router.read(name)) for name in world.router.services()}
    runs = {f"runs {dag_id}": repr(run_states(dag_id)) for dag_id in (f"release_{MODEL}", "model_rollback")}
    return files | routes | runs

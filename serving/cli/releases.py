"""release, rollback, validate: what a user asks of a model."""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from model_store.errors import Permanent, Retryable
from model_store.spec import load, load_all
from serving.audit import AuditTrail, Entry
from serving.cli.output import console, errors, print_json
from serving.home import Home
from serving.rollout.advance import Rollouts
from serving.rollout.journal import Journal
from serving.rollout.plan import RolloutState
from serving.router.envoy_file import EnvoyFileRouter
from serving.stack.airflow_api import AirflowApi, DagRun, TaskRun, UnknownDag, airflow_api
from serving.stack.slipway_api import Overtaken, slipway_api

POLL_SECONDS = 1.0
NEW_DAG_SECONDS = 60.0
SILENT_SECONDS = 120.0
_NEWS = ("running", "deferred", "success", "failed", "up_for_retry", "upstream_failed", "skipped")
_STYLES = {"success": "green", "failed": "bold red", "up_for_retry": "yellow", "upstream_failed": "dim"}


class RunFailed(Permanent):
    """The DAG run ended badly."""


def release(home: Home, model: str, version: str | None, reason: str, *, wait: bool, as_json: bool) -> None:
    """Ask for the release of a version. Raises `RunFailed` when waited for and it does not get there."""
    said = _ask(home, model, version, reason)
    run = DagRun(said["run"]["dag_id"], said["run"]["run_id"], "queued")
    if said.get("stands_still"):
        errors.print(Text(f"{said['stands_still']}.", style="yellow"), soft_wrap=True)
        errors.print(Text.assemble(("  to go on: ", "bold"), said["way_out"]), soft_wrap=True)
    _report(home, run, wait=wait, as_json=as_json, release=said["release_id"])


def rollback(home: Home, model: str, version: str | None, reason: str, *, wait: bool, as_json: bool) -> None:
    """Ask Airflow to go back; while it is down, return the traffic of a release under way by ourselves."""
    conf = {"model": model, "version": version, "reason": reason}
    try:
        run = _start(home, "model_rollback", conf)
    except Retryable as airflow_is_down:
        state = _return_traffic(home, model, version, reason, airflow_is_down)
        _say_returned(state, as_json=as_json)
    else:
        _report(home, run, wait=wait, as_json=as_json)


def validate(path: Path, *, as_json: bool) -> None:
    """Check a spec file. Raises `InvalidSpec` with file, line, field and the allowed values."""
    if not path.is_file():
        raise Permanent(
            f"there is no file {path}", remedy="Name a spec, e.g. dags/releases/credit_risk.yaml."
        )
    spec = load(path)
    if as_json:
        print_json({"valid": True, "spec": spec.model_dump(mode="json")})
    else:
        console.print(f"{path} is a valid spec: it releases {spec.model}.", soft_wrap=True)


def _ask(home: Home, model: str, version: str | None, reason: str) -> Any:
    """Over the REST API. A DAG that Airflow has not read yet is waited for: a fresh stack needs seconds."""
    deadline = time.monotonic() + NEW_DAG_SECONDS
    with slipway_api(home) as api:
        while True:
            try:
                return api.post("/releases", model=model, version=version, reason=reason)
            except Overtaken as problem:
                if not problem.problem.endswith("yet") or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)


def _start(home: Home, dag_id: str, conf: Mapping[str, str | None]) -> DagRun:
    """Trigger the DAG. One that is in the repository but not yet in Airflow is waited for."""
    deadline = time.monotonic() + NEW_DAG_SECONDS
    with airflow_api(home) as api:
        while True:
            try:
                return api.trigger(dag_id, conf)
            except UnknownDag:
                if dag_id not in _promised_dags(home) or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)


def _promised_dags(home: Home) -> set[str]:
    """What Airflow has as soon as it has read the folder: a fresh stack needs some seconds for it."""
    specs = load_all(home.dags / "releases").specs
    return {"model_rollback", *(f"release_{spec.model}" for spec in specs)}


def _report(home: Home, run: DagRun, *, wait: bool, as_json: bool, release: str | None = None) -> None:
    url = f"{home.airflow_url}/dags/{run.dag_id}/runs/{run.run_id}"
    if not as_json:
        name = f"{run.dag_id} ({release})" if release else run.dag_id
        console.print(f"{name} has started: {url}", soft_wrap=True)
    if wait:
        run = _follow(home, run, quiet=as_json)
    if run.state == "failed":
        raise RunFailed("\n".join([f"{run.dag_id} failed", *_why(home, run)]), remedy=f"See {url}")
    if as_json:
        known = {"release_id": release} if release else {}
        print_json({"dag_id": run.dag_id, "run_id": run.run_id, "state": run.state, "url": url, **known})
    elif wait:
        console.print(f"{run.dag_id}: {run.state}")


def _follow(home: Home, run: DagRun, *, quiet: bool) -> DagRun:
    """Say what each task does until the run has ended. An API server that is restarted is waited for."""
    said: dict[str, str | None] = {}
    answered = time.monotonic()
    while True:
        try:
            with airflow_api(home) as api:
                while not run.has_ended:
                    run, tasks = api.run(run), api.tasks(run)
                    answered = time.monotonic()
                    if not quiet:
                        _say_news(tasks, said)
                    time.sleep(0 if run.has_ended else POLL_SECONDS)
                return run
        except Retryable:
            if time.monotonic() > answered + SILENT_SECONDS:
                raise
            time.sleep(POLL_SECONDS)


def _say_news(tasks: list[TaskRun], said: dict[str, str | None]) -> None:
    for task in tasks:
        if task.state in _NEWS and said.get(task.name) != task.state:
            errors.print(Text(f"  {task.name}: {task.state}", style=_STYLES.get(task.state or "", "")))
        said[task.name] = task.state


def _why(home: Home, run: DagRun) -> Iterator[str]:
    with airflow_api(home) as api:
        for task in api.tasks(run):
            if task.state == "failed":
                yield f"  {task.name}: {_reason(api, run, task)}"


def _reason(api: AirflowApi, run: DagRun, task: TaskRun) -> str:
    """What the task left behind for this, or the last words of its log."""
    return api.xcom(run, task, "failure") or next(iter(api.log(run, task)[-1:]), "its log is empty")


def _return_traffic(
    home: Home, model: str, version: str | None, reason: str, airflow_is_down: Retryable
) -> RolloutState:
    """What the guard does: all traffic to stable, booked in the journal."""
    journal = Journal(home.journal)
    for state in journal.active():
        if state.service == model and version in (None, str(state.previous_version)):
            _note(home, state, reason)
            rollouts = Rollouts(journal, EnvoyFileRouter(home), now=lambda: datetime.now(UTC))
            return rollouts.roll_back(state.release_id, reason=reason)
    raise Retryable(
        f"{airflow_is_down.problem}, and no release of {model} is under way whose traffic could be returned"
        + (f" to version {version}" if version else ""),
        remedy=f"{airflow_is_down.remedy} Then roll back again.",
    ) from airflow_is_down


def _note(home: Home, state: RolloutState, reason: str) -> None:
    """Nobody is signed in without Airflow: the account of this machine acts."""
    who, detail = f"{getpass.getuser()} on the command line", {"via": "cli", "leaves": str(state.version)}
    entry = Entry(
        datetime.now(UTC),
        who,
        "rollback",
        state.service,
        state.previous_version,
        state.release_id,
        reason,
        detail,
    )
    if problem := AuditTrail(home.audit).append_if_possible(entry):
        errors.print(Text(f"not in the audit trail: {problem}", style="yellow"))


def _say_returned(state: RolloutState, *, as_json: bool) -> None:
    if as_json:
        print_json({"release": state.release_id, "phase": state.phase, "reason": state.reason})
        return
    console.print(
        f"Airflow is down, so the traffic was returned directly: {state.release_id} is {state.phase}."
        " Airflow books it when it is back."
    )

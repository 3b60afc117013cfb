"""Waiting for a DAG run on the command line, and saying what its tasks do meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.text import Text

from model_store.errors import Permanent, Retryable
from serving.cli.output import errors
from serving.home import Home
from serving.local_stack.airflow_api import AirflowApi, DagRun, TaskRun, airflow_api

POLL_SECONDS = 1.0
SILENT_SECONDS = 120.0
_NEWS = ("running", "deferred", "success", "failed", "up_for_retry", "upstream_failed", "skipped")
_STYLES = {"success": "green", "failed": "bold red", "up_for_retry": "yellow", "upstream_failed": "dim"}


class RunFailed(Permanent):
    """The DAG run ended badly."""


def follow(home: Home, run: DagRun, *, quiet: bool) -> DagRun:
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
                        _print_changes(tasks, said)
                    time.sleep(0 if run.has_ended else POLL_SECONDS)
                return run
        except Retryable:
            if time.monotonic() > answered + SILENT_SECONDS:
                raise
            time.sleep(POLL_SECONDS)


def _print_changes(tasks: list[TaskRun], said: dict[str, str | None]) -> None:
    for task in tasks:
        if task.state in _NEWS and said.get(task.name) != task.state:
            errors.print(Text(f"  {task.name}: {task.state}", style=_STYLES.get(task.state or "", "")))
        said[task.name] = task.state


def why(home: Home, run: DagRun) -> Iterator[str]:
    """What each of its tasks that failed said."""
    with airflow_api(home) as api:
        for task in api.tasks(run):
            if task.state == "failed":
                yield f"  {task.name}: {_reason(api, run, task)}"


def _reason(api: AirflowApi, run: DagRun, task: TaskRun) -> str:
    """What the task left behind for this, or the last words of its log."""
    return api.xcom(run, task, "failure") or next(iter(api.log(run, task)[-1:]), "its log is empty")

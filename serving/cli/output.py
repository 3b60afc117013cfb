"""How the commands speak: their arguments, text for people, JSON for machines, and failures; and how far a
release's run or a rollback has come, told until it is over.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from model_store.errors import Permanent, Retryable, SlipwayError
from model_store.unwritable import unwritable
from serving.home import Home
from serving.local_stack.apis import AirflowApi, DagRun, TaskRun, airflow_api, slipway_api

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """The command's answer for machines, on standard output."""
    sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")


@contextmanager
def telling_failures(*, as_json: bool) -> Iterator[None]:
    """Turn any failure into its problem, its remedy and exit status 1. Raises typer.Exit."""
    try:
        yield
    except SlipwayError as error:
        _tell(error, as_json=as_json)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as interrupt:
        errors.print("\nInterrupted.")
        raise typer.Exit(130) from interrupt
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        _tell(unwritable(error) or _unexpected(error), as_json=as_json)
        raise typer.Exit(1) from error


def _tell(error: SlipwayError, *, as_json: bool) -> None:
    if as_json:
        temporary = isinstance(error, Retryable)
        print_json({"error": {"problem": error.problem, "remedy": error.remedy, "retryable": temporary}})
        return
    # Not broken into lines: in a file or a pipe a path has to stay whole, and a terminal breaks lines itself.
    errors.print(Text(error.problem, style="bold red"), soft_wrap=True)
    errors.print(Text.assemble(("  remedy: ", "bold"), error.remedy), soft_wrap=True)


def _unexpected(error: Exception) -> Permanent:
    """A fault of ours. The traceback goes to a file: it helps whoever mends it, not whoever meets it."""
    log = Home.locate().logs / "cli.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        traceback.print_exception(error)
    return Permanent(
        f"unexpected {type(error).__name__}: {error}",
        remedy=f"This is a fault in Slipway. Please report it with the end of {log}.",
    )


Json = Annotated[bool, typer.Option("--json", help="Answer in JSON on standard output.")]
Model = Annotated[str, typer.Argument(help="The model's name in the registry.")]
Version = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A model folder as MLflow saves it, or models:/NAME/VERSION.",
        show_default="the spec's alias",
    ),
]


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


RETURNED, FAILED = "traffic_returned", "failed"
_UNDER_WAY = ("queued", "running")


def report_rollback(home: Home, said: dict[str, Any], *, wait: bool, as_json: bool) -> None:
    """Tell how far it is; with `wait`, follow it until requests are back and everything is written down.

    Raises `RunFailed` when they do not go back.
    """
    if not as_json:
        _tell_rollback(said)
    if wait and said["run"] is not None:
        said = {**said, **_followed(home, said, quiet=as_json)}
    elif wait:
        _until_settled(home, said["release_id"])
    if as_json:
        print_json(said)


def _followed(home: Home, said: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Requests come first; then the run, which books it."""
    place = f"/models/{said['model']}/rollbacks/{said['rollback_id']}"
    now, last = said, said["words"]
    while now["state"] not in (RETURNED, FAILED):
        time.sleep(POLL_SECONDS)
        now = _get(home, place)
        if not quiet and now["words"] != last:
            _tell_rollback(now)
        last = now["words"]
    run = follow(home, DagRun(said["run"]["dag_id"], said["run"]["run_id"], "queued"), quiet=quiet)
    if now["state"] == FAILED or run.state == "failed":
        head = f"{run.dag_id} failed: {now['words']}"
        raise RunFailed("\n".join([head, *why(home, run)]), remedy=f"See {said['run']['url']}")
    return {"state": now["state"], "words": now["words"], "returned_at": now["returned_at"]}


def _until_settled(home: Home, release: str) -> None:
    """Requests went back with the asking; the release's own run ends its pods and writes the books."""
    while _get(home, f"/releases/{release}")["airflow_state"] in _UNDER_WAY:
        time.sleep(POLL_SECONDS)


def _get(home: Home, path: str) -> Any:
    """An API server that is restarted is waited for."""
    deadline = time.monotonic() + SILENT_SECONDS
    while True:
        try:
            with slipway_api(home) as api:
                return api.get(path)
        except Retryable:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


def _tell_rollback(said: dict[str, Any]) -> None:
    head = said["state"].replace("_", " ").capitalize()
    console.print(Text(f"{head}: {said['words']}."), soft_wrap=True)
    if said.get("way_out"):
        errors.print(Text.assemble(("  to go on: ", "bold"), said["way_out"]), soft_wrap=True)

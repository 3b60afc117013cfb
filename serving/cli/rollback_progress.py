"""rollback: how far it has come, until users are back and the books are closed."""

from __future__ import annotations

import time
from typing import Any

from rich.text import Text

from model_store.errors import Retryable
from serving.cli.output import console, errors, print_json
from serving.cli.run_progress import POLL_SECONDS, SILENT_SECONDS, RunFailed, follow, why
from serving.home import Home
from serving.local_stack.airflow_api import DagRun
from serving.local_stack.slipway_api import slipway_api

RETURNED, FAILED = "traffic_returned", "failed"
_UNDER_WAY = ("queued", "running")


def report(home: Home, said: dict[str, Any], *, wait: bool, as_json: bool) -> None:
    """Tell how far it is; with `wait`, follow it until requests are back and everything is written down.

    Raises `RunFailed` when they do not go back.
    """
    if not as_json:
        _tell(said)
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
            _tell(now)
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


def _tell(said: dict[str, Any]) -> None:
    head = said["state"].replace("_", " ").capitalize()
    console.print(Text(f"{head}: {said['words']}."), soft_wrap=True)
    if said.get("way_out"):
        errors.print(Text.assemble(("  to go on: ", "bold"), said["way_out"]), soft_wrap=True)

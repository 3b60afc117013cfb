"""Which of Slipway's DAGs somebody paused in Airflow, for tasks and triggers, which cannot ask its database.

The API server can: it looks every second and writes down what changed. A rollout whose DAG is paused keeps
its split (`serving.control.freeze_enforcement`): nobody could finish it, as Airflow starts no task of a
paused DAG.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from model_store.durable import canonical_json, write_file
from serving.control.specs import PREFIX
from serving.home import Home

log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0


def describe(dag_id: str) -> str:
    """Of a DAG that is paused, the same wherever it is said."""
    return f"{dag_id} is paused in Airflow"


def remedy_for(dag_id: str) -> str:
    """How it goes on."""
    return (
        f"unpause it: `./slipway unpause {dag_id.removeprefix(PREFIX)}`, or the switch on its page in Airflow"
    )


def paused(home: Home) -> frozenset[str]:
    """The DAGs that were paused when the API server looked last; none if it never did."""
    try:
        return frozenset(json.loads(_path(home).read_bytes())["dags"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return frozenset()


def record(home: Home, dags: Iterable[str]) -> None:
    """Write down which are paused, if that is not what is written."""
    wanted = frozenset(dags)
    if wanted != paused(home) or not _path(home).is_file():
        _path(home).parent.mkdir(parents=True, exist_ok=True)
        write_file(_path(home), canonical_json({"schema": 1, "dags": sorted(wanted)}))


def watch(home: Home, ask: Callable[[], Iterable[str]], over: threading.Event) -> None:
    """Note what `ask` says, again and again until the event is set."""
    told = ""
    while True:
        try:
            record(home, ask())
            told = ""
        except Exception as problem:
            # The database is busy, or the disk full: what was noted stays, and this loop outlives both.
            if (words := f"{type(problem).__name__}: {problem}") != told:
                log.warning("which DAGs are paused is not known: %s", words)
            told = words
        if over.wait(LOOK_SECONDS):
            return


def _path(home: Home) -> Path:
    return home.run / "paused_dags.json"

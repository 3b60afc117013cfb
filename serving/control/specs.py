"""Which specs to make DAGs of: to run a task one is enough, and reading 300 would take seconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from model_store.release_spec import InvalidSpec, Loaded, ReleaseSpec, load, load_all

PREFIX = "release_"
REFUSED = "__refused"


def dag_id_of(model: str) -> str:
    """The DAG that releases `model`."""
    return PREFIX + model


def dag_id_of_problem(problem: InvalidSpec, good: Sequence[ReleaseSpec]) -> str:
    """Where a refused spec shows up: under the DAG id its file's name promises, unless a good spec has it."""
    promised = PREFIX + re.sub(r"[^A-Za-z0-9_.-]", "_", problem.path.stem)
    taken = {dag_id_of(spec.model) for spec in good}
    return f"{promised}{REFUSED}" if promised in taken else promised


def wanted(folder: Path, dag_id: str | None) -> Loaded:
    """The specs of the DAGs that are asked for: all, or the one Airflow is about to run a task of."""
    if dag_id and (found := _named_after(folder, dag_id)):
        return found
    return load_all(folder)


def _named_after(folder: Path, dag_id: str) -> Loaded | None:
    """The one spec, if its file is named after its model. Else every file has to be read."""
    path = folder / f"{dag_id.removeprefix(PREFIX)}.yaml"
    try:
        spec = load(path)
    except (InvalidSpec, OSError):
        return None
    return Loaded([spec], []) if dag_id_of(spec.model) == dag_id else None

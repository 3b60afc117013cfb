"""Which specs to make DAGs of: to run a task one is enough, and reading 300 would take seconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
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


def complaints_about(folder: Path, model: str) -> tuple[str, ...]:
    """Why the model's spec is refused; nothing if it is not, or if its file is called otherwise."""
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

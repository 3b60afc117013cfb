"""Slipway's DAGs, for a file of one's own in any DAG folder:

    from slipway_airflow import dags

    globals().update(dags.beside(__file__))

The specs are then in `releases` beside that file, wherever Airflow got the folder from: a disk, or a DAG
bundle that follows a git repository. Nothing is copied, so an upgrade of the package is one of the DAGs.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from airflow.sdk import DAG

from model_store.installation import DAG_FILES


def beside(file: str) -> dict[str, DAG]:
    """All DAGs by their ids, for the specs in `releases` beside `file`."""
    folder = Path(file).absolute().parent
    found = [dag for source in sorted(DAG_FILES.glob("*.py")) for dag in _dags_of(source, folder)]
    return {dag.dag_id: dag for dag in found}


def _dags_of(source: Path, folder: Path) -> list[DAG]:
    """Those of one of our files, run as if it lay in `folder`: DAGs look for specs beside themselves."""
    spec = spec_from_file_location(f"slipway_dags_{source.stem}", source)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    module.__file__ = str(folder / source.name)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return [value for value in vars(module).values() if isinstance(value, DAG)]

"""How long Airflow takes to read the release DAGs, with 1 and with 300 specs.

    python -m benchmarks.dag_parse [--runs 3]

Every run is a fresh Python process that parses `dags/model_release.py` as Airflow's DAG processor does
(`DagBag`), imports of our packages included; what Airflow itself takes to start is told beside it. A task's
process asks for one DAG only, whatever the number of specs: that is measured too. Exits 1 over a limit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from model_store.installation import ROOT as REPOSITORY

SPEC = REPOSITORY / "dags" / "releases" / "credit_risk.yaml"
LIMIT_SECONDS = {1: 1.0, 300: 8.0}

# Runs in the fresh process. CPU seconds, too: on a shared machine they tell what waiting does not.
CODE = """
import json, os, sys, time
started = time.perf_counter()
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions._internal.dag_parsing_context import _airflow_parsing_context_manager
airflow = time.perf_counter() - started
file, dag_id = sys.argv[1:]
wall, cpu = time.perf_counter(), time.process_time()
with _airflow_parsing_context_manager(dag_id=dag_id or None):
    bag = DagBag(file, safe_mode=True)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
assert not bag.import_errors, bag.import_errors
print(json.dumps({"airflow": airflow, "wall": wall, "cpu": cpu, "dags": len(bag.dags)}))
"""


@dataclass(frozen=True, slots=True)
class Parsed:
    """Medians in seconds: Airflow's own imports, the file by the wall's clock, and its CPU time."""

    airflow: float
    wall: float
    cpu: float


def folder_with(specs: int, root: Path) -> Path:
    """A DAG folder with our file and `specs` release specs, one per model. Returns the file."""
    releases = root / "dags" / "releases"
    releases.mkdir(parents=True)
    file = root / "dags" / "model_release.py"
    file.symlink_to(REPOSITORY / "dags" / "model_release.py")
    for number in range(specs):
        name = f"model_{number:03}"
        said = SPEC.read_text().replace("model: credit_risk ", f"model: {name} ", 1)
        (releases / f"{name}.yaml").write_text(said)
    return file


def parse(file: Path, *, runs: int, expected: int, dag_id: str = "") -> Parsed:
    """The medians of `runs` fresh processes. Raises `AssertionError` when a DAG is missing."""
    found = [_parse_once(file, dag_id) for _ in range(runs)]
    assert {one["dags"] for one in found} == {expected}, found
    return Parsed(*(statistics.median(one[key] for one in found) for key in ("airflow", "wall", "cpu")))


def _parse_once(file: Path, dag_id: str) -> dict[str, float]:
    path = f"{REPOSITORY}:{REPOSITORY / 'plugins'}"
    environ = {
        **os.environ,
        "AIRFLOW_HOME": str(file.parents[1] / "airflow"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "PYTHONPATH": path,
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-c", CODE, str(file), dag_id]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> int:
    """Print a line for each number of specs; 1 if a limit is missed."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--runs", type=int, default=3, help="fresh processes for each figure")
    runs = arguments.parse_args().runs
    missed = False
    for specs, limit in LIMIT_SECONDS.items():
        with TemporaryDirectory(prefix="slipway-parse-") as folder:
            file = folder_with(specs, Path(folder))
            every = parse(file, runs=runs, expected=specs)
            one = parse(file, runs=runs, expected=1, dag_id="release_model_000")
        missed |= every.wall > limit
        print(
            f"{specs:>4} specs: parsed in {every.wall:.2f} s ({every.cpu:.2f} s CPU, limit {limit:g} s); "
            f"a process that runs a task: {one.wall:.2f} s; Airflow's own imports {every.airflow:.2f} s"
        )
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())

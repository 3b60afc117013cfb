"""What releases cost Airflow's scheduler, in processor time and counts: waiting ones, and many at once.

    python -m benchmarks.scheduler_loop [--waiting 0 1 10 50 100] [--at-once 8 25 100] [--loops 30]

Twice each: as Airflow has it ("every run" is examined in every loop) and as Slipway does ("what changed",
`slipway_airflow.run_filter`). First what one loop costs while in so many releases nothing happens; then
what each of so many costs that start at the same moment, beside one alone. Airflow's scheduler, its
database and our DAGs are real, its workers are not (`benchmarks.scheduler_rig`): `benchmarks.many_releases`
is the whole thing, but needs a machine that does nothing else. Prints tables and, last, a line of JSON;
exits 1 if a release of the most costs more than 1.1 times one alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.dag_parse import folder_with
from model_store.installation import ROOT as REPOSITORY

LIMIT = 1.1
HOW = {"every": "every run", "changed": "what changed"}
Row = dict[str, Any]


def main() -> int:
    """Measure and print; 1 if the limit is missed."""
    arguments = _arguments()
    waiting = [_waiting(releases, arguments.loops) for releases in arguments.waiting]
    at_once = {how: _at_once(how, arguments.at_once) for how in HOW} if arguments.at_once else {}
    print(json.dumps({"limit": LIMIT, "waiting": waiting, "at_once": at_once}))
    return int(any(row["times"] > LIMIT for row in at_once.get("changed", [])))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="slipway bench scheduler_loop")
    parser.add_argument("--waiting", type=int, nargs="*", default=[0, 1, 10, 50, 100])
    parser.add_argument("--at-once", type=int, nargs="*", default=[8, 25, 100])
    parser.add_argument("--loops", type=int, default=30)
    return parser.parse_args()


def _waiting(releases: int, loops: int) -> Row:
    """A loop with so many releases that wait, both ways."""
    rows = {how: next(_rig(how, "waiting", releases, loops, specs=max(1, releases))) for how in HOW}
    cells = (
        f"{said} {1e3 * rows[how]['cpu']:.1f} ms, {rows[how]['sql']:.0f} SQL" for how, said in HOW.items()
    )
    print(f"a loop with {releases} waiting: {'; '.join(cells)}", flush=True)
    return {"releases": releases, **rows}


def _at_once(how: str, numbers: list[int]) -> list[Row]:
    """Each of so many at once, `times` one alone."""
    found = list[Row]()
    for row in _rig(how, "together", 1, *numbers, specs=2 + sum(numbers)):
        found.append(row)
        row["times"] = row["cpu"] / found[0]["cpu"]
        print(
            f"{HOW[how]}, {row['releases']} at once: {row['cpu']:.2f} s each ({row['times']:.2f} times),"
            f" {row['loops']:.0f} loops, {row['looks']:.0f} looks, {row['sql']:.0f} SQL",
            flush=True,
        )
    return found


def _rig(how: str, what: str, *numbers: int, specs: int) -> Iterator[Row]:
    with TemporaryDirectory(prefix="slipway-loop-") as folder:
        file = folder_with(specs, Path(folder))
        command = [sys.executable, "-m", "benchmarks.scheduler_rig", str(file), how, what, *map(str, numbers)]
        environ = _environment(folder)
        rig = subprocess.Popen(command, env=environ, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        assert rig.stdout is not None
        # Airflow, too, has something to say.
        yield from (json.loads(line) for line in rig.stdout if line.startswith("{"))
        assert rig.wait() == 0, f"benchmarks.scheduler_rig ended with {rig.returncode}"


def _environment(folder: str) -> dict[str, str]:
    return {
        **os.environ,
        "AIRFLOW_HOME": f"{folder}/airflow",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__API_AUTH__JWT_SECRET": "of this benchmark, and of nothing else that listens",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        # As in serving/local_stack/airflow_config.py.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "1",
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'plugins'}",
        "PYTHONWARNINGS": "ignore",
    }


if __name__ == "__main__":
    raise SystemExit(main())

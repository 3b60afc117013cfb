"""What the local stack costs: seconds to start, memory and idle processor time, seconds for a chain of tasks.

`./slipway bench stack` starts a stack of its own in a temporary home, on ports from `--port-base` upwards,
and ends it. Run it on a machine that does nothing else; the load average is printed beside each figure.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from serving.home import Home
from serving.local_stack.apis import AirflowApi, airflow_api
from serving.local_stack.lifecycle import down, up
from serving.supervision.processes import Owned, owned_by, proportional_memory_bytes

console = Console(highlight=False)

CHAIN = """
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG
from airflow.sdk.bases.operator import chain

with DAG("chain", schedule=None, tags=["slipway"]):
    chain(*(PythonOperator(task_id=f"task_{n}", python_callable=lambda: None) for n in range(%d)))
"""


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as folder:
        dags = Path(folder) / "dags"
        dags.mkdir()
        (dags / "chain.py").write_text(CHAIN % arguments.tasks)
        os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(dags)
        home = Home.locate({"SLIPWAY_HOME": f"{folder}/home", "SLIPWAY_PORT_BASE": str(arguments.port_base)})
        try:
            _measure(home, arguments)
        finally:
            down(home)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="slipway bench stack", description=__doc__)
    parser.add_argument("--port-base", type=int, default=9680)
    parser.add_argument("--tasks", type=int, default=12, help="length of the chain")
    parser.add_argument("--runs", type=int, default=5, help="of the chain")
    parser.add_argument("--idle-seconds", type=float, default=20)
    return parser.parse_args()


def _measure(home: Home, arguments: argparse.Namespace) -> None:
    _print_start("cold start, new home", home)
    down(home)
    _print_start("second start", home)
    _wait_for_chain(home)
    _print_programs(home, idle_seconds=arguments.idle_seconds)
    seconds = [_run_chain(home) for _ in range(arguments.runs)]
    each = ", ".join(f"{second:.1f}" for second in seconds)
    per_task = statistics.median(seconds) / arguments.tasks
    console.print(f"chain of {arguments.tasks} empty tasks: {each} s ({_load()})")
    console.print(f"median {per_task:.2f} s a task")


def _print_start(what: str, home: Home) -> None:
    started, came_up = time.monotonic(), dict[str, float]()

    def watch(standings: object) -> None:
        assert isinstance(standings, list)
        for standing in standings:
            if standing.problem is None:
                came_up.setdefault(standing.name, time.monotonic() - started)

    up(home, watch)
    order = ", ".join(f"{name} {seconds:.1f}" for name, seconds in came_up.items())
    seconds, used = time.monotonic() - started, sum(_processor_seconds(owned_by(home)).values())
    console.print(f"{what}: {seconds:.1f} s, {used:.1f} processor seconds ({_load()})\n  {order}")


def _print_programs(home: Home, *, idle_seconds: float) -> None:
    before = _processor_seconds(owned_by(home))
    time.sleep(idle_seconds)
    owned = owned_by(home)
    after = _processor_seconds(owned)
    columns = ("program", "processes", "RSS MB", "PSS MB", "idle CPU %")
    table = Table(*columns, title=f"memory and idle ({_load()})")
    for program in sorted({each.program for each in owned}):
        table.add_row(program, *_row(program, owned), f"{_percent(before, after, program, idle_seconds):.1f}")
    idle = 100 * (sum(after.values()) - sum(before.values())) / idle_seconds
    pss = sum(proportional_memory_bytes(each.process) for each in owned)
    table.add_row("together", str(len(owned)), "", f"{pss / 2**20:.0f}", f"{idle:.1f}")
    console.print(table)


def _row(program: str, owned: list[Owned]) -> tuple[str, str, str]:
    processes = [each.process for each in owned if each.program == program]
    rss = sum(process.memory_info().rss for process in processes)
    pss = sum(proportional_memory_bytes(process) for process in processes)
    return str(len(processes)), f"{rss / 2**20:.0f}", f"{pss / 2**20:.0f}"


def _percent(before: dict[str, float], after: dict[str, float], program: str, seconds: float) -> float:
    return 100 * (after[program] - before[program]) / seconds


def _processor_seconds(owned: list[Owned]) -> dict[str, float]:
    """Of each program and of its children that have ended."""
    used: dict[str, float] = defaultdict(float)
    for each in owned:
        times = each.process.cpu_times()
        used[each.program] += times.user + times.system + times.children_user + times.children_system
    return used


def _wait_for_chain(home: Home) -> None:
    with airflow_api(home) as api:
        while "chain" not in api.dag_ids():
            time.sleep(0.5)
        # The first task of a fresh stack loads what all later ones find loaded.
        _finish(api)


def _run_chain(home: Home) -> float:
    with airflow_api(home) as api:
        started = time.monotonic()
        _finish(api)
        return time.monotonic() - started


def _finish(api: AirflowApi) -> None:
    run = api.trigger("chain", {})
    while not run.has_ended:
        time.sleep(0.1)
        run = api.run(run)
    assert run.state == "success", run


def _load() -> str:
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


if __name__ == "__main__":
    main()

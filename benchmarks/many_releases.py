"""What a release costs Airflow's scheduler when many models are released at once, beside one alone.

    python -m benchmarks.many_releases [--models 8 25] [--alone 3] [--dry] [--every] [--port-base 9980]

Starts a stack of its own with a spec for each model, all of them the demo's model under other names. First a
few are released one after the other, then for each number so many others at the same moment, each to its end
with pods and traffic. Scheduler time is the processor time of the scheduler's own process (its workers are
others); what it spends while nothing happens is measured before. What Airflow's other processes spend is told
beside it, so that work which only moved there is seen. Prints a table and, last, a line of JSON; exits 1 if
a release of many costs the scheduler more than 1.1 times one alone.

`--dry` ends each release when its bundle is published: build, gates and bookkeeping, but no pod and no
rollout. Pods take about 100 MB each and stay, so a hundred releases with pods need 12 GB. With 100 models use
it; a dry release is cheaper for the scheduler, too, so compare only dry with dry.
`--every` lets the scheduler examine every run in every loop, as Airflow does by itself.

A release alone must have the processors for itself: on a machine where others work it takes longer, costs
more loops, and makes those of many look cheap. The load before each measurement is in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.release_overhead import register_copies
from demo.data import Parts
from demo.models import MODEL as TRAINED
from demo.traffic import applications
from model_store.installation import ROOT as REPOSITORY
from model_store.registry import Registry
from model_store.types import ModelRef
from serving.home import Home
from serving.local_stack.apis import AirflowApi, DagRun, airflow_api
from serving.local_stack.lifecycle import down, up
from serving.supervision.supervisor import Supervisor

LIMIT = 1.1
IDLE_SECONDS = 10.0
REQUESTS_PER_SECOND = 40

SPEC = """
model: {model}
source:
  flavor: sklearn
  trusted: true
  skops_trusted_types: [sklearn.neural_network._stochastic_optimizers.AdamOptimizer]
data:
  evaluation: ${{SLIPWAY_HOME}}/data/credit_risk/evaluation.parquet
  calibration: ${{SLIPWAY_HOME}}/data/credit_risk/calibration.parquet
  label: bad
  slices: [Home, Job]
precisions: [fp32]
targets: [onnxruntime]
gates:
  accuracy: {{max_drop: 0.05}}
  auc: {{max_drop: 0.05}}
rollout:
  steps: [{{weight: 100, hold_seconds: 1}}]
  watch_seconds: 0
  analysis: {{min_requests: 3, latency_objective_ms: 1000, max_slow_share: 0.5}}
"""


AIRFLOW = ("scheduler", "api-server", "triggerer", "dag-processor")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of `releases` together: seconds by the wall's clock, and processor seconds by Airflow part."""

    releases: int
    wall: float
    cpu: dict[str, float]
    load: float

    def each(self, part: str = "scheduler") -> float:
        return self.cpu[part] / self.releases


def main() -> int:
    """Measure and print; 1 if the limit is missed."""
    arguments = _arguments()
    # So that the stack is ended, too, when a time limit ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ["AIRFLOW__SLIPWAY__EXAMINE_EVERY_RUN"] = str(arguments.every)
    names = [f"bench_{number:03}" for number in range(arguments.alone + 1 + sum(arguments.models))]
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as folder:
        home = Home.locate({"SLIPWAY_HOME": f"{folder}/home", "SLIPWAY_PORT_BASE": str(arguments.port_base)})
        os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(_dags(Path(folder), names))
        try:
            up(home, lambda standings: None)
            _register(home, names)
            with airflow_api(home) as api, _users(home, names):
                return _measure(home, api, names, arguments)
        finally:
            down(home)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="slipway bench many_releases")
    parser.add_argument("--models", type=int, nargs="+", default=[8], help="released at the same moment")
    parser.add_argument("--alone", type=int, default=3, help="released one after the other before")
    parser.add_argument("--dry", action="store_true", help="stop before traffic")
    parser.add_argument("--every", action="store_true", help="examine every run in every loop")
    parser.add_argument("--port-base", type=int, default=9980)
    return parser.parse_args()


def _dags(root: Path, names: list[str]) -> Path:
    releases = root / "dags" / "releases"
    releases.mkdir(parents=True)
    (root / "dags" / "model_release.py").symlink_to(REPOSITORY / "dags" / "model_release.py")
    for name in names:
        (releases / f"{name}.yaml").write_text(SPEC.format(model=name))
    return root / "dags"


def _register(home: Home, names: list[str]) -> None:
    environ = {**os.environ, "SLIPWAY_HOME": str(home.root)}
    trained = [sys.executable, "-m", "demo.models", "1"]
    subprocess.run(trained, cwd=REPOSITORY, env=environ, check=True, capture_output=True)
    registry = Registry(home.mlflow_url)
    for name in names:
        register_copies(registry, ModelRef(TRAINED, 1), name, count=1)


def _measure(home: Home, api: AirflowApi, names: list[str], arguments: argparse.Namespace) -> int:
    while not {f"release_{name}" for name in names} <= set(api.dag_ids("release")):
        time.sleep(0.5)
    left, parts, conf = iter(names), _parts(home), {"version": "1", "dry_run": arguments.dry}

    def cost(releases: int) -> Cost:
        return _cost(parts, api, list(islice(left, releases)), conf)

    cost(1)  # finds nothing loaded
    idle = _idle(parts["scheduler"])
    singles = [cost(1) for _ in range(arguments.alone)]
    alone = statistics.median(single.each() for single in singles)
    print(HEAD)
    for single in singles:
        _print(single, alone)
    together = list[Cost]()
    for releases in arguments.models:
        together.append(cost(releases))
        _print(together[-1], alone)
    ratios = [one.each() / alone for one in together]
    said = {"dry": arguments.dry, "every": arguments.every, "idle": idle, "limit": LIMIT, "ratios": ratios}
    print(json.dumps(said | {"alone": [*map(asdict, singles)], "at_once": [*map(asdict, together)]}))
    return int(max(ratios) > LIMIT)


HEAD = (
    f"{'at once':>8}{'wall s':>9}" + "".join(f"{part:>15}" for part in AIRFLOW) + f"{'times':>8}{'load':>7}"
)


def _print(cost: Cost, alone: float) -> None:
    each = "".join(f"{cost.each(part):>13.2f} s" for part in AIRFLOW)
    print(
        f"{cost.releases:>8}{cost.wall:>9.1f}{each}{cost.each() / alone:>8.2f}{cost.load:>7.1f}", flush=True
    )


def _parts(home: Home) -> dict[str, psutil.Process]:
    pids = {one.name: one.pid for one in Supervisor(home).programs()}
    return {part: psutil.Process(pids[f"airflow-{part}"]) for part in AIRFLOW}


def _cost(parts: dict[str, psutil.Process], api: AirflowApi, names: list[str], conf: dict[str, Any]) -> Cost:
    load, began = os.getloadavg()[0], time.monotonic()
    before = {part: _cpu(process) for part, process in parts.items()}
    runs = [api.trigger(f"release_{name}", conf) for name in names]
    ended = [_ended(api, run) for run in runs]
    assert {run.state for run in ended} == {"success"}, ended
    spent = {part: _cpu(process) - before[part] for part, process in parts.items()}
    return Cost(len(names), time.monotonic() - began, spent, load)


def _ended(api: AirflowApi, run: DagRun) -> DagRun:
    while not run.has_ended:
        time.sleep(0.5)
        run = api.run(run)
    return run


@contextmanager
def _users(home: Home, names: list[str]) -> Iterator[None]:
    """Somebody asks each model now and then, so that a first version can pass its step."""
    rows = [row.body for row in applications(Parts.under(home.data / TRAINED).traffic)]
    over = threading.Event()
    asking = threading.Thread(target=_ask, args=(home, names, rows, over), daemon=True)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()


def _ask(home: Home, names: list[str], rows: list[bytes], over: threading.Event) -> None:
    asked = 0
    with httpx.Client(timeout=5, trust_env=False) as client:
        while not over.wait(1 / REQUESTS_PER_SECOND):
            asked += 1
            url = f"{home.gateway_url}/v2/models/{names[asked % len(names)]}/infer"
            try:
                client.post(url, content=rows[asked % len(rows)])
            except httpx.HTTPError:
                continue


def _idle(scheduler: psutil.Process) -> float:
    """Processor seconds a second while nothing is to be done."""
    before = _cpu(scheduler)
    time.sleep(IDLE_SECONDS)
    return (_cpu(scheduler) - before) / IDLE_SECONDS


def _cpu(process: psutil.Process) -> float:
    """Of the process itself; the DAG processor parses in children, whose time counts once they ended."""
    times = process.cpu_times()
    parsing = "dag-processor" in process.cmdline()
    return float(times.user + times.system + parsing * (times.children_user + times.children_system))


if __name__ == "__main__":
    raise SystemExit(main())

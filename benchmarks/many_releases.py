"""What a release costs Airflow's scheduler when many models are released at once, beside one alone.

    python -m benchmarks.many_releases [--models 8] [--alone 3] [--port-base 9980]

Starts a stack of its own with a spec for each model, all of them the demo's model under other names. First a
few are released one after the other, then all others at the same moment, each to its end with pods and
traffic. Scheduler time is the processor time of the scheduler's own process (its workers are others); what it
spends anyway while nothing happens is measured before and told apart. Exits 1 above 1.1 times.

A hundred models are the aim; each has a pod of about 100 MB and a dozen tasks, so choose what the machine can
do.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.release_overhead import register_copies
from demo.data import Parts
from demo.models import MODEL as TRAINED
from demo.traffic import applications
from model_store.registry import Registry
from model_store.types import ModelRef
from serving.home import REPOSITORY, Home
from serving.stack.airflow_api import AirflowApi, DagRun, airflow_api
from serving.stack.lifecycle import down, up
from serving.stack.supervisor import Supervisor

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


@dataclass(frozen=True, slots=True)
class Cost:
    """Of `releases` together: seconds by the wall's clock, and of the scheduler's processor time."""

    releases: int
    wall: float
    cpu: float

    def net(self, idle: float) -> float:
        """Processor seconds for each, without what the scheduler spends while nothing happens."""
        return (self.cpu - idle * self.wall) / self.releases

    @property
    def each(self) -> float:
        return self.cpu / self.releases


def main() -> int:
    """Measure and print; 1 if the limit is missed."""
    arguments = _arguments()
    # So that the stack is ended, too, when a time limit ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = [f"bench_{number:03}" for number in range(arguments.alone + 1 + arguments.models)]
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as folder:
        home = Home.locate({"SLIPWAY_HOME": f"{folder}/home", "SLIPWAY_PORT_BASE": str(arguments.port_base)})
        os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(_dags(Path(folder), names))
        try:
            up(home, lambda standings: None)
            _register(home, names)
            with airflow_api(home) as api, _users(home, names):
                return _measure(home, api, names, alone=arguments.alone)
        finally:
            down(home)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="slipway bench many_releases")
    parser.add_argument("--models", type=int, default=8, help="released at the same moment")
    parser.add_argument("--alone", type=int, default=3, help="released one after the other before")
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


def _measure(home: Home, api: AirflowApi, names: list[str], *, alone: int) -> int:
    while not {f"release_{name}" for name in names} <= set(_dag_ids(api)):
        time.sleep(0.5)
    scheduler = _scheduler(home)
    _cost(scheduler, api, names[:1])  # finds nothing loaded
    idle = _idle(scheduler)
    singles = [_cost(scheduler, api, [name]) for name in names[1 : alone + 1]]
    for one in singles:
        print(f"alone: {one.wall:.1f} s, scheduler {one.cpu:.2f} s (net {one.net(idle):.2f} s)", flush=True)
    together = _cost(scheduler, api, names[alone + 1 :])
    single = sum(one.each for one in singles) / len(singles)
    net = sum(one.net(idle) for one in singles) / len(singles)
    print(
        f"{together.releases} at once: {together.wall:.1f} s, scheduler {together.each:.2f} s each"
        f" (net {together.net(idle):.2f} s), idle {idle:.3f} s/s"
    )
    print(
        f"scheduler time each is {together.each / single:.2f} times that of one alone (limit {LIMIT}),"
        f" net {together.net(idle) / net:.2f} times; load {os.getloadavg()[0]:.1f}"
    )
    return int(together.each / single > LIMIT)


def _dag_ids(api: AirflowApi) -> list[str]:
    return api.dag_ids("release")


def _scheduler(home: Home) -> psutil.Process:
    programs = Supervisor(home).programs()
    return psutil.Process(next(one.pid for one in programs if one.name == "airflow-scheduler"))


def _cost(scheduler: psutil.Process, api: AirflowApi, names: list[str]) -> Cost:
    began, before = time.monotonic(), _cpu(scheduler)
    runs = [api.trigger(f"release_{name}", {"version": "1"}) for name in names]
    ended = [_ended(api, run) for run in runs]
    assert {run.state for run in ended} == {"success"}, ended
    return Cost(len(names), time.monotonic() - began, _cpu(scheduler) - before)


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
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    raise SystemExit(main())

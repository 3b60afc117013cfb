"""What Airflow adds to a release, beside what it takes for a DAG of as many empty tasks in the same run.

    python -m benchmarks.release_overhead [--releases 3] [--port-base 9780]

Starts a stack of its own, registers a few equal versions of the demo's model, and releases them one after
the other under light traffic; between them runs an empty DAG of the same shape. Of a release's wall time all
time is taken out in which one of its tasks was at work (each notes when it began and ended) or the rollout
stood in a step, holding and gathering evidence. What is left is overhead. Exits 1 above 1.3 times.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from demo.data import Parts
from demo.models import MODEL as TRAINED
from demo.traffic import applications
from model_store.build import variants
from model_store.installation import ROOT as REPOSITORY
from model_store.registry import Registry
from model_store.release_spec import load
from model_store.types import ModelRef
from serving import composition
from serving.home import Home
from serving.local_stack.apis import AirflowApi, DagRun, airflow_api
from serving.local_stack.lifecycle import down, up

LIMIT = 1.3
MODEL = "bench"
RATE_PER_SECOND = 40
Span = tuple[float, float]

# Tasks and dependencies of dags/model_release.py, and nothing in them.
EMPTY = """
from airflow.sdk import DAG, task

@task
def one(): ...

@task
def many(number): ...

with DAG("empty_release", schedule=None, tags=["slipway"]):
    def step(name): return one.override(task_id=name)()
    def steps(name, count): return many.override(task_id=name).expand(number=list(range(count)))
    turn, exported, checked = step("take_turn"), step("export"), step("check_data")
    quantized, compiled = steps("quantize", {variants}), steps("compile", {built})
    gated = steps("gate", {variants})
    turn >> exported >> [checked, quantized]
    quantized >> compiled >> gated
    checked >> gated
    last = gated
    for name in ("choose", "publish", "roll_out", "promote", "settle"):
        following = step(name)
        last >> following
        last = following
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of one release: all of it, in steps of the rollout, at work besides, and what is left."""

    wall: float
    held: float
    worked: float

    @property
    def overhead(self) -> float:
        return self.wall - self.held - self.worked


def main() -> int:
    """Measure and print; 1 if the limit is missed."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as folder:
        home = Home.locate({"SLIPWAY_HOME": f"{folder}/home", "SLIPWAY_PORT_BASE": str(arguments.port_base)})
        os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(_dags(Path(folder)))
        try:
            up(home, lambda standings: None)
            _register(home, versions=arguments.releases + 1)
            with airflow_api(home) as api:
                return _measure(home, api, releases=arguments.releases)
        finally:
            down(home)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="slipway bench release_overhead")
    parser.add_argument("--releases", type=int, default=3)
    parser.add_argument("--port-base", type=int, default=9780)
    return parser.parse_args()


def _dags(root: Path) -> Path:
    """Our DAG file with one spec of short holds, and the empty DAG."""
    releases = root / "dags" / "releases"
    releases.mkdir(parents=True)
    (root / "dags" / "model_release.py").symlink_to(REPOSITORY / "dags" / "model_release.py")
    said = (REPOSITORY / "dags" / "releases" / f"{TRAINED}.yaml").read_text()
    for old, new in (
        (f"model: {TRAINED} ", f"model: {MODEL} "),
        ("watch_seconds: 600", "watch_seconds: 0"),
        ("min_requests: 50", "min_requests: 10"),
        ("max_p99_ms: 20, max_ratio: 1.5", "max_p99_ms: 500"),
    ):
        assert old in said, old
        said = said.replace(old, new)
    (releases / f"{MODEL}.yaml").write_text(said)
    spec = load(releases / f"{MODEL}.yaml")
    count = len(variants(spec))
    empty = EMPTY.format(variants=count, built=count * len(spec.targets))
    (root / "dags" / "empty_release.py").write_text(empty)
    return root / "dags"


def _register(home: Home, *, versions: int) -> None:
    """One trained model, registered `versions` times under the benchmark's name."""
    environ = {**os.environ, "SLIPWAY_HOME": str(home.root)}
    trained = [sys.executable, "-m", "demo.models", "1"]
    subprocess.run(trained, cwd=REPOSITORY, env=environ, check=True, capture_output=True)
    register_copies(Registry(home.mlflow_url), ModelRef(TRAINED, 1), MODEL, count=versions)


def register_copies(registry: Registry, ref: ModelRef, name: str, *, count: int) -> None:
    """Register the model of `ref` `count` times more, under another name."""
    described = registry.describe(ref)
    # MLflow believes a source of another model only with that model's id.
    model_id = described.source.removeprefix("models:/")
    copy = {"name": name, "source": described.source, "run_id": described.run_id, "model_id": model_id}
    with httpx.Client(base_url=f"{registry.url}/api/2.0/mlflow", trust_env=False, timeout=60) as client:
        client.post("/registered-models/create", json={"name": name}).raise_for_status()
        for _ in range(count):
            client.post("/model-versions/create", json=copy).raise_for_status()


def _measure(home: Home, api: AirflowApi, *, releases: int) -> int:
    while not {"empty_release", f"release_{MODEL}"} <= set(api.dag_ids()):
        time.sleep(0.5)
    with _users(home):
        # The first run of each finds nothing loaded and no version to compare with.
        _timed(api, "empty_release")
        _release(home, api, version=1)
        empty, taken = list[float](), list[Taken]()
        for version in range(2, releases + 2):
            empty.append(_timed(api, "empty_release")[0])
            taken.append(_release(home, api, version=version))
            _print(empty[-1], taken[-1])
    ratio = statistics.median(one.overhead for one in taken) / statistics.median(empty)
    print(f"overhead is {ratio:.2f} times the empty DAG's (limit {LIMIT}); load {os.getloadavg()[0]:.1f}")
    return int(ratio > LIMIT)


def _print(empty: float, taken: Taken) -> None:
    print(
        f"release {taken.wall:.1f} s = {taken.held:.1f} in steps + {taken.worked:.1f} at work"
        f" + {taken.overhead:.1f} overhead; empty DAG {empty:.1f} s",
        flush=True,
    )


def _release(home: Home, api: AirflowApi, *, version: int) -> Taken:
    wall, run = _timed(api, f"release_{MODEL}", version=str(version))
    held = _steps_of(home)
    everything = covered([*_spans(api, run), held])
    return Taken(wall, covered([held]), everything - covered([held]))


def _timed(api: AirflowApi, dag_id: str, **conf: str) -> tuple[float, DagRun]:
    started = time.monotonic()
    run = api.trigger(dag_id, conf)
    while not run.has_ended:
        time.sleep(0.1)
        run = api.run(run)
    assert run.state == "success", run
    return time.monotonic() - started, run


def _spans(api: AirflowApi, run: DagRun) -> Iterator[Span]:
    """When the run's tasks were at work."""
    for task in api.tasks(run):
        for key in ("seconds", "seconds_resumed"):
            if said := api.xcom(run, task, key):
                began, ended = json.loads(said)
                yield began, ended


def _steps_of(home: Home) -> Span:
    """From the latest rollout's first step to the end of its last."""
    journal = composition.journal_of(home)
    events = journal.timeline(journal.releases(MODEL)[-1].release_id)
    shifts = [event.at.timestamp() for event in events if event.kind == "shift"]
    promoted = [event.at.timestamp() for event in events if event.kind == "promoted"]
    return shifts[0], promoted[0]


def covered(spans: Iterable[Span]) -> float:
    """Seconds in at least one of the spans."""
    total, end = 0.0, 0.0
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, end))
        end = max(end, ended)
    return total


@contextmanager
def _users(home: Home) -> Iterator[None]:
    """Somebody asks the model all the time, at a modest rate."""
    rows = [row.body for row in applications(Parts.under(home.data / TRAINED).traffic)]
    over = threading.Event()
    asking = threading.Thread(target=_ask, args=(home, rows, over.wait), daemon=True)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()


def _ask(home: Home, rows: list[bytes], is_over: Callable[[float], bool]) -> None:
    url, asked = f"{home.gateway_url}/v2/models/{MODEL}/infer", 0
    with httpx.Client(timeout=5, trust_env=False) as client:
        while not is_over(1 / RATE_PER_SECOND):
            asked += 1
            try:
                client.post(url, content=rows[asked % len(rows)])
            except httpx.HTTPError:
                continue


if __name__ == "__main__":
    raise SystemExit(main())

"""How long an event of MLflow takes to the first task of its release, beside Airflow's own asset events.

    python -m benchmarks.events [--rounds 8] [--port-base 9880]

Starts a stack of its own. In each round an asset event is posted to Airflow's REST API for a DAG with one
empty task, and then an alias is moved in MLflow, whose webhook starts a release. Both times run from the call
to the start of the first task, as Airflow wrote it down. The releases have nothing to build and end after it.
Beside it, how long the door takes to answer signed deliveries (median and p99 of 200). Exits 1 above 2 times.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx

from model_store.installation import ROOT as REPOSITORY
from model_store.registry import Registry
from model_store.registry.rest import Rest
from model_store.types import ModelRef
from serving.credentials import credentials_of
from serving.home import Home
from serving.inbound.deliveries import sign
from serving.inbound.registration import ENDPOINT
from serving.inbound.secrets import secrets_of
from serving.local_stack.apis import AirflowApi, DagRun, airflow_api
from serving.local_stack.lifecycle import down, up

LIMIT = 2.0
DOOR_LIMIT_SECONDS = 0.05
MODEL = "bench"
RELEASE = f"release_{MODEL}"
PLAIN = "plain_asset"

PLAIN_DAG = f"""
from airflow.sdk import DAG, Asset, task

@task
def one(): ...

with DAG("{PLAIN}", schedule=[Asset("{PLAIN}", uri="slipway://bench/plain")], tags=["slipway"]):
    one()
"""
# Nothing is behind its versions, so a release ends when it looks for the model.
SPEC = f"""
model: {MODEL}
source: {{flavor: onnx}}
data: {{evaluation: nowhere.parquet, calibration: nowhere_else.parquet, label: y}}
precisions: [fp32]
targets: [onnxruntime]
rollout: {{steps: [{{weight: 100, hold_seconds: 0}}]}}
"""


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds from the event to the first task: of Airflow's own, and of a release."""

    plain: float
    ours: float


def main() -> int:
    """Measure and print; 1 if a limit is missed."""
    arguments = _arguments()
    # So that the stack is ended, too, when a time limit ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as folder:
        home = Home.locate({"SLIPWAY_HOME": f"{folder}/home", "SLIPWAY_PORT_BASE": str(arguments.port_base)})
        os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(_dags(Path(folder)))
        try:
            up(home, lambda standings: None)
            with airflow_api(home) as api:
                return _measure(home, api, rounds=arguments.rounds)
        finally:
            down(home)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="slipway bench events")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--port-base", type=int, default=9880)
    return parser.parse_args()


def _dags(root: Path) -> Path:
    releases = root / "dags" / "releases"
    releases.mkdir(parents=True)
    (root / "dags" / "model_release.py").symlink_to(REPOSITORY / "dags" / "model_release.py")
    (root / "dags" / "plain.py").write_text(PLAIN_DAG)
    (releases / f"{MODEL}.yaml").write_text(SPEC)
    return root / "dags"


def _measure(home: Home, api: AirflowApi, *, rounds: int) -> int:
    while not {PLAIN, RELEASE} <= set(api.dag_ids()):
        time.sleep(0.5)
    registry, refs = Registry(home.mlflow_url), _versions(home, rounds + 1)
    with closing(_client(home)) as client:
        asset = client.get("/api/v2/assets", params={"name_pattern": PLAIN}).json()["assets"][0]["id"]
        taken = [_round(client, api, registry, asset, ref) for ref in refs][1:]  # the first one warms up
        for one in taken:
            print(f"Airflow's own asset event {one.plain:.2f} s; MLflow's webhook {one.ours:.2f} s")
        plain, ours = (statistics.median(times) for times in _columns(taken))
        median, p99 = _door(home)
    ratio = ours / plain
    print(
        f"event to first task: {ours:.2f} s, {ratio:.2f} times Airflow's own {plain:.2f} s (limit {LIMIT:g})"
    )
    print(
        f"the door answers in {median * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms (limit {DOOR_LIMIT_SECONDS:g} s)"
    )
    print(f"load {os.getloadavg()[0]:.1f}")
    return int(ratio > LIMIT or p99 > DOOR_LIMIT_SECONDS)


def _columns(taken: list[Round]) -> tuple[list[float], list[float]]:
    return [one.plain for one in taken], [one.ours for one in taken]


def _round(client: httpx.Client, api: AirflowApi, registry: Registry, asset: int, ref: ModelRef) -> Round:
    known = {run.run_id for run in api.latest_runs(PLAIN)}
    began = time.time()
    client.post("/api/v2/assets/events", json={"asset_id": asset}).raise_for_status()
    plain = _first_task(api, PLAIN, known) - began
    known = {run.run_id for run in api.latest_runs(RELEASE)}
    began = time.time()
    registry.set_alias(ref, "candidate")
    return Round(plain, _first_task(api, RELEASE, known) - began)


def _first_task(api: AirflowApi, dag_id: str, known: set[str]) -> float:
    """When the first task of the run began that is not among the known. Returns when the run has ended."""
    while not (new := [run for run in api.latest_runs(dag_id) if run.run_id not in known]):
        time.sleep(0.1)
    run: DagRun = new[0]
    while not run.has_ended:
        time.sleep(0.1)
        run = api.run(run)
    started = min(task.started_at for task in api.tasks(run) if task.started_at)
    return datetime.fromisoformat(started).timestamp()


def _door(home: Home) -> tuple[float, float]:
    """Median and p99 of answers to signed deliveries about a model that nobody releases."""
    secret, took = secrets_of(home).current, list[float]()
    with httpx.Client(base_url=home.airflow_url, trust_env=False) as client:
        for _ in range(200):
            delivery, seconds = str(uuid4()), int(time.time())
            said = {
                "entity": "model_version",
                "action": "created",
                "timestamp": datetime.now(UTC).isoformat(),
                "data": {"name": "nobody", "version": "1"},
            }
            body = json.dumps(said).encode()
            headers = {
                "X-MLflow-Delivery-Id": delivery,
                "X-MLflow-Timestamp": str(seconds),
                "X-MLflow-Signature": sign(secret, delivery, seconds, body),
            }
            began = time.perf_counter()
            client.post(ENDPOINT, content=body, headers=headers).raise_for_status()
            took.append(time.perf_counter() - began)
    return statistics.median(took), sorted(took)[-len(took) // 100]


def _versions(home: Home, count: int) -> list[ModelRef]:
    """Versions of runs that logged nothing."""
    rest = Rest(home.mlflow_url)
    rest.post("/registered-models/create", name=MODEL)
    run = rest.post("/runs/create", experiment_id="0", start_time=0)["run"]["info"]
    source = {"name": MODEL, "source": run["artifact_uri"], "run_id": run["run_id"]}
    made = [rest.post("/model-versions/create", **source)["model_version"] for _ in range(count)]
    return [ModelRef(MODEL, int(one["version"])) for one in made]


def _client(home: Home) -> httpx.Client:
    login = credentials_of(home)
    client = httpx.Client(base_url=home.airflow_url, timeout=20, trust_env=False)
    account = {"username": login.airflow_user, "password": login.airflow_password}
    token = client.post("/auth/token", json=account).raise_for_status().json()["access_token"]
    client.headers["Authorization"] = f"Bearer {token}"
    return client


if __name__ == "__main__":
    raise SystemExit(main())

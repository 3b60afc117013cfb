"""Nobody calls Airflow here: MLflow and Alertmanager do, while parts of the stack are away.

The tests tell one story in order; each starts from what the one before left.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from benchmarks.release_overhead import register_copies
from demo.data import Parts
from demo.models import MODEL as TRAINED
from demo.traffic import applications
from model_store.registry import Registry
from model_store.types import ModelRef
from serving.inbound.signature import sign
from serving.monitoring.config import Options, write
from serving.rollout.journal import Journal
from serving.router.envoy_file import EnvoyFileRouter
from serving.stack.airflow_api import AirflowApi, DagRun, airflow_api
from serving.stack.supervisor import Supervisor
from serving.target.local import LocalTarget
from tests.e2e.stack import Stack, wait_until
from tests.tools import ALERTMANAGER, require
from tests.unit.serving.gateway_process import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.story, pytest.mark.timeout(900)]

MODEL = "parcels"
RELEASE = f"release_{MODEL}"
PATIENCE_SECONDS = 300
# MLflow tries a delivery four times, with 1, 2 and 4 s and some jitter between.
MLFLOW_GIVES_UP_SECONDS = 12


@dataclass
class Parcels:
    """The model, and what Airflow and the registry say of it."""

    stack: Stack
    registry: Registry

    def name(self, version: int) -> None:
        """All that a person does: move the alias in MLflow."""
        self.registry.set_alias(ModelRef(MODEL, version), "candidate")

    def wait_for(self, version: int, status: str) -> None:
        def has_status() -> bool:
            return self.registry.describe(ModelRef(MODEL, version)).tags.get("slipway.status") == status

        wait_until(has_status, seconds=PATIENCE_SECONDS, what=f"v{version} to be {status}")
        wait_until(self._is_quiet, seconds=PATIENCE_SECONDS, what="every run to end")

    def _is_quiet(self) -> bool:
        return all(run.has_ended for dag_id in (RELEASE, "model_rollback") for run in self.runs(dag_id))

    def released(self) -> list[int]:
        """Every version that a rollout was begun for, in order."""
        return [state.version for state in Journal(self.stack.home.journal).releases(MODEL)]

    def runs(self, dag_id: str = RELEASE) -> list[DagRun]:
        with airflow_api(self.stack.home) as api:
            return api.latest_runs(dag_id, limit=50)

    def tried(self) -> int:
        """How many runs began a release; the others found that somebody else did."""
        with airflow_api(self.stack.home) as api:
            return sum(self._began(api, run) for run in api.latest_runs(RELEASE, limit=50))

    @staticmethod
    def _began(api: AirflowApi, run: DagRun) -> bool:
        return any(task.name == "intake.export" and task.state == "success" for task in api.tasks(run))

    @property
    def serving(self) -> int | None:
        stable = EnvoyFileRouter(self.stack.home).read(MODEL).stable
        return stable.version if stable else None


class Receiver(ThreadingHTTPServer):
    """Where people are told: keeps the titles of what is posted with our signature."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                said = [
                    self.headers[f"X-Slipway-{name}"] for name in ("Delivery-Id", "Timestamp", "Signature")
                ]
                if said[2] == sign("hush", said[0], int(said[1]), body):
                    receiver.titles.append(json.loads(body)["title"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def receiver(stack: Stack) -> Iterator[Receiver]:
    """Named in Airflow as the connection that the spec tells."""
    opened = Receiver()
    url = f"http://127.0.0.1:{opened.server_address[1]}"
    said = {"connection_id": "parcels_hook", "conn_type": "http", "host": url, "password": "hush"}
    with airflow_api(stack.home) as api:
        api._call("POST", "/api/v2/connections", json=said)
    yield opened
    opened.shutdown()
    opened.server_close()


@pytest.fixture(scope="module")
def parcels(stack: Stack, trained: ModelRef, receiver: Receiver) -> Iterator[Parcels]:
    """Four equal versions in the registry without an alias, and users who ask all the time."""
    registry = Registry(stack.home.mlflow_url)
    register_copies(registry, trained, MODEL, count=4)
    with airflow_api(stack.home) as api:
        wait_until(lambda: RELEASE in api.dag_ids(), seconds=120, what=f"the DAG {RELEASE}")
    over = threading.Event()
    asking = threading.Thread(target=_ask, args=(stack, over.wait), daemon=True)
    asking.start()
    yield Parcels(stack, registry)
    over.set()
    asking.join()
    target = LocalTarget(stack.home)
    for deployment in target.deployments(MODEL):
        target.retire(deployment)


def _ask(stack: Stack, is_over: Callable[[float], bool]) -> None:
    rows = [row.body for row in applications(Parts.under(stack.home.data / TRAINED).traffic)]
    url, asked = f"{stack.home.gateway_url}/v2/models/{MODEL}/infer", 0
    with httpx.Client(timeout=10, trust_env=False) as client:
        while not is_over(1 / 30):
            asked += 1
            try:
                client.post(url, content=rows[asked % len(rows)])
            except httpx.HTTPError:
                continue


def test_mlflow_reaches_airflows_door(stack: Stack) -> None:
    done = stack.slipway("webhooks", "sync", "--test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unchanged" in done.stdout, "`up` has registered it"


def test_an_alias_in_mlflow_is_all_that_a_release_needs(parcels: Parcels, receiver: Receiver) -> None:
    parcels.name(1)
    parcels.wait_for(1, "promoted")
    (run,) = parcels.runs()
    assert run.run_id.startswith("asset_triggered")
    assert (parcels.serving, parcels.released()) == (1, [1])
    # It takes longer than its deadline of some seconds, and Airflow says so.
    told = {f"{MODEL} v1 is released", f"{MODEL} v1 is late"}
    wait_until(lambda: told <= set(receiver.titles), seconds=60, what=f"{told} to be told")


def test_a_webhook_that_is_lost_because_airflow_is_down_is_made_up_for_once(parcels: Parcels) -> None:
    name = parcels.stack.program("airflow-api-server").full_name
    Supervisor(parcels.stack.home).stop(name)
    parcels.name(2)
    # Until MLflow has given this delivery up: it is lost.
    time.sleep(MLFLOW_GIVES_UP_SECONDS)
    Supervisor(parcels.stack.home).start(name)
    parcels.stack.wait_until_healthy()
    parcels.wait_for(2, "promoted")
    assert parcels.released() == [1, 2]
    assert parcels.tried() == 2


def test_webhooks_that_come_late_and_the_reconciler_release_once_together(parcels: Parcels) -> None:
    """The secret changes, too: what was signed with the old one before is still believed."""
    parcels.stack.kill("airflow-api-server")
    parcels.name(3)
    for number in range(20):  # each of them a delivery that is tried until Airflow is back
        parcels.registry.set_tags(ModelRef(MODEL, 3), {f"burst-{number}": "x"})
    assert parcels.stack.slipway("webhooks", "rotate").returncode == 0
    parcels.wait_for(3, "promoted")
    assert parcels.released() == [1, 2, 3]
    assert parcels.tried() == 3
    assert parcels.stack.slipway("webhooks", "sync", "--test").returncode == 0


def test_a_real_alertmanager_takes_a_version_back_once_after_its_watch(
    parcels: Parcels, receiver: Receiver, tmp_path: Path
) -> None:
    program = require(ALERTMANAGER)
    home, (port,) = parcels.stack.home, free_ports(1)
    write(home, tmp_path, Options(alertmanager=f"127.0.0.1:{port}"))
    arguments = [
        f"--config.file={tmp_path / 'alertmanager.yml'}",
        f"--storage.path={tmp_path / 'alerts'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    labels = {"model": MODEL, "action": "rollback"}
    alerts = [
        {"labels": {**labels, "alertname": name}, "annotations": {"summary": "users see errors"}}
        for name in ("ModelErrorsReachUsers", "ModelSlow")
    ]
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "log").open("wb") as log:
        manager = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
    try:
        wait_until(lambda: _is_ready(url), seconds=30, what="Alertmanager")
        for _ in range(2):
            httpx.post(f"{url}/api/v2/alerts", json=alerts, trust_env=False).raise_for_status()
        wait_until(lambda: parcels.serving == 2, seconds=PATIENCE_SECONDS, what="v2 to serve again")
        parcels.wait_for(3, "rolled_back")
    finally:
        manager.terminate()
        manager.wait(20)
    (rollback,) = [run for run in parcels.runs("model_rollback") if run.run_id.startswith("alert__")]
    assert rollback.state == "success"
    assert parcels.registry.aliases(MODEL)["champion"] == 2
    assert "users see errors" in parcels.registry.describe(ModelRef(MODEL, 3)).tags["slipway.reason"]
    assert receiver.titles.count(f"{MODEL} v3 was rolled back to v2") == 1
    # The alias still names v3. Nobody tries it again, however often MLflow says so.
    parcels.name(3)
    assert parcels.released() == [1, 2, 3]


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", trust_env=False).is_success
    except httpx.TransportError:
        return False

"""Nobody calls Airflow here: MLflow and Alertmanager do, while parts of the stack are away.

The tests tell one story in order; each starts from what the one before left.
"""

from __future__ import annotations

import base64
import hmac
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from demo.clients import DagRun, Platform, Registry
from tests.e2e.client import Users, asking
from tests.e2e.stack import REPOSITORY, Stack, free_port, run, wait_until
from tests.tools import ALERTMANAGER, require

pytestmark = [pytest.mark.e2e, pytest.mark.at_length, pytest.mark.story, pytest.mark.timeout(900)]

MODEL = "parcels"
RELEASE = f"release_{MODEL}"
SECRET = "hush"
PATIENCE_SECONDS = 300
# MLflow tries a delivery four times, with 1, 2 and 4 s and some jitter between.
MLFLOW_GIVES_UP_SECONDS = 12


@dataclass
class Parcels:
    """The model, and what Airflow and the registry say of it."""

    stack: Stack

    @property
    def platform(self) -> Platform:
        return self.stack.platform

    @property
    def registry(self) -> Registry:
        return self.stack.registry

    def name(self, version: int) -> None:
        """All that a person does: move the alias in MLflow."""
        self.registry.set_alias(MODEL, version, "candidate")

    def wait_for(self, version: int, status: str) -> None:
        def has_status() -> bool:
            return self.registry.tags(MODEL, version).get("slipway.status") == status

        wait_until(has_status, seconds=PATIENCE_SECONDS, what=f"v{version} to be {status}")
        wait_until(self._is_quiet, seconds=PATIENCE_SECONDS, what="every run to end")

    def _is_quiet(self) -> bool:
        return all(run.has_ended for dag_id in (RELEASE, "model_rollback") for run in self.runs(dag_id))

    def released(self) -> list[int]:
        """Every version that a rollout was begun for, in order."""
        return self.platform.rolled_out(MODEL)

    def runs(self, dag_id: str = RELEASE) -> list[DagRun]:
        return self.platform.runs(dag_id)

    def tried(self) -> int:
        """How many runs began a release; the others found that somebody else did."""
        return sum(self._began(run) for run in self.runs())

    def _began(self, run: DagRun) -> bool:
        tasks = self.platform.tasks(run)
        return any(task["task_id"] == "intake.export" and task["state"] == "success" for task in tasks)

    @property
    def serving(self) -> int | None:
        """The version that gets every request."""
        shares = self.platform.shares(MODEL)
        return next(iter(shares)) if list(shares.values()) == [100] else None


class Receiver(ThreadingHTTPServer):
    """Where people are told: keeps the titles of what is posted with our signature."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if hmac.compare_digest(self._signed(body), self.headers["X-Slipway-Signature"]):
                    receiver.titles.append(json.loads(body)["title"])
                self.send_response(204)
                self.end_headers()

            def _signed(self, body: bytes) -> str:
                """As MLflow signs its own webhooks (docs/webhooks.md)."""
                delivery, at = (self.headers[f"X-Slipway-{name}"] for name in ("Delivery-Id", "Timestamp"))
                digest = hmac.digest(SECRET.encode(), f"{delivery}.{at}.".encode() + body, "sha256")
                return f"v1,{base64.b64encode(digest).decode()}"

            def log_message(self, format: str, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def receiver(stack: Stack) -> Iterator[Receiver]:
    """Named in Airflow as the connection that the spec tells."""
    opened = Receiver()
    url = f"http://127.0.0.1:{opened.server_address[1]}"
    said = {"connection_id": "parcels_hook", "conn_type": "http", "host": url, "password": SECRET}
    stack.platform.post("/api/v2/connections", said)
    yield opened
    opened.shutdown()
    opened.server_close()


@pytest.fixture(scope="module")
def parcels(stack: Stack, trained: str, receiver: Receiver) -> Iterator[Parcels]:
    """Four equal versions in the registry without an alias, and users who ask all the time."""
    stack.registry.copy(trained, MODEL, count=4)
    stack.wait_for_dag(RELEASE)
    with asking(Users(stack.infer_url(MODEL), stack.rows())):
        yield Parcels(stack)


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
    wait_until(lambda: told <= set(receiver.titles), seconds=PATIENCE_SECONDS, what=f"{told} to be told")


def test_a_webhook_that_is_lost_because_airflow_is_down_is_made_up_for_once(parcels: Parcels) -> None:
    with parcels.stack.stopped("airflow-api-server"):
        parcels.name(2)
        # Until MLflow has given this delivery up: it is lost.
        time.sleep(MLFLOW_GIVES_UP_SECONDS)
    parcels.wait_for(2, "promoted")
    assert parcels.released() == [1, 2]
    assert parcels.tried() == 2


def test_webhooks_that_come_late_and_the_reconciler_release_once_together(parcels: Parcels) -> None:
    """The secret changes, too: what was signed with the old one before is still believed."""
    parcels.stack.kill("airflow-api-server")
    parcels.name(3)
    for number in range(20):  # each of them a delivery that is tried until Airflow is back
        parcels.registry.set_tag(MODEL, 3, f"burst-{number}", "x")
    assert parcels.stack.slipway("webhooks", "rotate").returncode == 0
    parcels.wait_for(3, "promoted")
    assert parcels.released() == [1, 2, 3]
    assert parcels.tried() == 3
    assert parcels.stack.slipway("webhooks", "sync", "--test").returncode == 0


def test_a_real_alertmanager_takes_a_version_back_once_after_its_watch(
    parcels: Parcels, receiver: Receiver, tmp_path: Path
) -> None:
    program = require(ALERTMANAGER)
    port = free_port()
    made = [sys.executable, "-m", "serving.monitoring", str(tmp_path), "--alertmanager", f"127.0.0.1:{port}"]
    assert run(made, environ=parcels.stack.environ, cwd=REPOSITORY).returncode == 0
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
    assert parcels.registry.champion(MODEL) == 2
    assert "users see errors" in parcels.registry.tags(MODEL, 3)["slipway.reason"]
    assert receiver.titles.count(f"{MODEL} v3 was rolled back to v2") == 1
    # The alias still names v3. Nobody tries it again, however often MLflow says so.
    parcels.name(3)
    assert parcels.released() == [1, 2, 3]


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", trust_env=False).is_success
    except httpx.TransportError:
        return False

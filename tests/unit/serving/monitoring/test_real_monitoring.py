"""A real Prometheus and a real Alertmanager beside a real Envoy: from a failing pod to Airflow's door."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.control.controller.tick import Controller
from serving.control.rollout.journal import KeptJournal
from serving.credentials import credentials_of
from serving.home import Home, Ports
from serving.ledger.memory import MemoryLedger
from serving.metrics.envoy import EnvoyAdmin
from serving.monitoring.config import ALERTS_PATH, Options, targets, write
from serving.monitoring.incidents import Incident, incidents, is_authentic
from serving.types import ALL_STABLE
from tests.tools import ALERTMANAGER, PROMETHEUS, require
from tests.unit.serving.controller_port import serve
from tests.unit.serving.gateway_process import Gateway, free_ports, gateway_running
from tests.unit.serving.upstream import Pods, deployment, pods_running

pytestmark = pytest.mark.timeout(240)


class Door:
    """Where Airflow would listen: keeps every delivery with its Authorization header."""

    def __init__(self, port: int) -> None:
        self.deliveries: list[tuple[str, str | None, bytes]] = []
        door = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                door.deliveries.append((self.path, self.headers["authorization"], body))
                # The first answer is lost, so Alertmanager delivers again.
                self.send_response(503 if len(door.deliveries) == 1 else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Observatory:
    """Everything that runs, at the speed of a test: scrapes each second, alerts after two."""

    def __init__(self, gateway: Gateway, pods: Pods, folder: Path, stack: ExitStack) -> None:
        airflow, controller_port, prometheus, alertmanager = free_ports(4)
        usual = gateway.home.ports
        ports = Ports(
            airflow=airflow, controller=controller_port, gateway=usual.gateway, envoy_stats=usual.envoy_stats
        )
        self.home, self.gateway, self.pods = Home(gateway.home.root, ports), gateway, pods
        self.url = f"http://127.0.0.1:{prometheus}"
        self.metrics = EnvoyAdmin(self.home.envoy_stats_url, timeout_seconds=10)
        stack.callback(self.metrics.close)
        self.door, self.controller = Door(airflow), self._controller()
        stack.callback(self.door.server.server_close)
        stack.callback(self.door.server.shutdown)
        server = serve(
            self.controller, controller_port, find_problem=str, targets=lambda: targets(gateway.router)
        )
        stack.callback(server.shutdown)
        write(self.home, folder, Options(alertmanager=f"127.0.0.1:{alertmanager}", interval_seconds=1))
        _hurry(folder)
        stack.enter_context(_running(*_alertmanager(folder, alertmanager), cwd=folder))
        stack.enter_context(_running(*_prometheus(folder, prometheus), cwd=folder))

    def _controller(self) -> Controller:
        journal, router = KeptJournal(MemoryLedger()), self.gateway.router
        return Controller(
            journal, router, self.metrics, now=lambda: datetime.now(UTC), monotonic=time.monotonic
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, trust_env=False)
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def firing(self) -> set[str]:
        return {one["metric"]["alertname"] for one in self.query('ALERTS{alertstate="firing"}')}

    def wait(self, condition: Callable[[], object], *, seconds: float = 90) -> None:
        """Until `condition`, with requests to the model and looks of the controller meanwhile."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.controller.tick()
            self.gateway.infer("fraud")
            try:
                if condition():
                    return
            except (httpx.TransportError, KeyError, ValueError):
                pass
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s; firing: {self.firing()}")


def _hurry(folder: Path) -> None:
    rules = folder / "rules" / "alerts.yml"
    slow = rules.read_text()
    for wait in ("for: 15s", "for: 30s", "for: 1m\n"):
        assert wait in slow
        slow = slow.replace(wait, "for: 2s" + wait[len(wait.rstrip()) :])
    rules.write_text(slow.replace("interval: 5s", "interval: 1s"))
    routes = folder / "alertmanager.yml"
    text = routes.read_text()
    for usual, quick in (
        ("group_interval: 30s", "group_interval: 1s"),
        ("repeat_interval: 5m", "repeat_interval: 2s"),
    ):
        assert usual in text
        text = text.replace(usual, quick)
    routes.write_text(text)


def _prometheus(folder: Path, port: int) -> list[str]:
    return [
        require(PROMETHEUS),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]


def _alertmanager(folder: Path, port: int) -> list[str]:
    return [
        require(ALERTMANAGER),
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alerts'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]


@contextmanager
def _running(*command: str, cwd: Path) -> Iterator[None]:
    with (cwd / f"{Path(command[0]).name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture
def observatory(tmp_path: Path) -> Iterator[Observatory]:
    require(PROMETHEUS)
    require(ALERTMANAGER)
    with ExitStack() as stack:
        gateway = stack.enter_context(gateway_running(tmp_path / "home"))
        pods = stack.enter_context(pods_running())
        stable = deployment("fraud", 1, pods.start("stable"))
        gateway.router.write("fraud", ALL_STABLE, stable=stable, candidate=None, at=0)
        gateway.wait_until_served_by("fraud", "stable")
        yield Observatory(gateway, pods, tmp_path / "monitoring", stack)


def test_errors_that_reach_users_knock_at_airflows_door_once_per_incident(observatory: Observatory) -> None:
    sky = observatory
    sky.wait(lambda: sky.query('model:gateway_requests:rate1m{model="fraud"}'))
    sky.wait(lambda: sky.query('up{job="slipway-pods", service="fraud", slot="blue"}'))
    sky.wait(lambda: sky.query('slipway_controller_ticks_total{job="slipway-controller"}'))
    assert "ModelErrorsReachUsers" not in sky.firing()
    assert "ControllerSilent" not in sky.firing()

    sky.pods.all[0].fault = "error"
    sky.wait(lambda: len(sky.door.deliveries) >= 3)

    secret = credentials_of(sky.home).webhook_secret
    told: list[Incident] = []
    for path, authorization, body in sky.door.deliveries:
        assert path == ALERTS_PATH
        assert is_authentic(authorization, secret)
        told += incidents(body, models={"fraud"}).incidents
    assert {one.model for one in told} == {"fraud"}
    assert len({one.key for one in told if one.alert == "ModelErrorsReachUsers"}) == 1
    # The pods of this test have no metrics, so they count as not ready; that is for people, not for Airflow.
    sky.wait(lambda: "PodsNotReady" in sky.firing())
    names = {
        alert["labels"]["alertname"]
        for *_, body in sky.door.deliveries
        for alert in json.loads(body)["alerts"]
    }
    assert names == {"ModelErrorsReachUsers"}


def test_a_controller_that_stops_looking_is_noticed(observatory: Observatory) -> None:
    sky = observatory
    sky.wait(lambda: sky.query('rate(slipway_controller_ticks_total{job="slipway-controller"}[30s]) > 0'))
    deadline = time.monotonic() + 120
    while "ControllerSilent" not in sky.firing():  # nobody ticks here
        assert time.monotonic() < deadline, sky.firing()
        time.sleep(0.5)


def test_a_dotted_model_name_is_put_together_again(observatory: Observatory) -> None:
    sky = observatory
    stable = deployment("fraud.eu", 1, sky.pods.start("eu"))
    sky.gateway.router.write("fraud.eu", ALL_STABLE, stable=stable, candidate=None, at=0)
    sky.gateway.wait_until_served_by("fraud.eu", "eu")
    sky.wait(
        lambda: (
            sky.gateway.infer("fraud.eu") and sky.query('slipway_gateway_requests_total{model="fraud.eu"}')
        )
    )
    models = {one["metric"]["model"] for one in sky.query("slipway_gateway_requests_total")}
    assert models == {"fraud", "fraud.eu"}

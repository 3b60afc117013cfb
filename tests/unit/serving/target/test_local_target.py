"""Real pods under a real supervisord that supervises nothing else."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import httpx
import psutil
import pytest

from model_store.errors import Retryable
from model_store.types import Bundle, GateReport, ModelRef
from serving.home import Home, Ports
from serving.stack import supervisor
from serving.stack.lifecycle import down
from serving.stack.processes import owned_by
from serving.stack.supervisor import Supervisor
from serving.target import pods
from serving.target.local import LocalTarget, PodDoesNotStart
from serving.types import Slot
from tests.bundles import make_bundle, mlp
from tests.contract.target_contract import Bundles, TargetContract, wait_until_ready


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        first = probe.getsockname()[1]
    home = Home(tmp_path_factory.mktemp("home"), Ports(pods_from=first))
    start_supervisord(home)
    yield home
    down(home)
    assert owned_by(home) == []


class AlwaysOk(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def always_ok(port: int) -> Iterator[None]:
    with HTTPServer(("127.0.0.1", port), AlwaysOk) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield
        finally:
            server.shutdown()


def start_supervisord(home: Home) -> None:
    for folder in (home.run, home.logs, home.pods):
        folder.mkdir(exist_ok=True)
    supervisor.configure(home, [])
    supervisor.start(home)


@pytest.fixture
def target(home: Home) -> Iterator[LocalTarget]:
    target = LocalTarget(home, environ={})
    yield target
    for record in list(pods.records(home)):
        target.retire(record.deployment)


@pytest.fixture
def bundles(tmp_path: Path) -> Bundles:
    def make(service: str, version: int) -> Bundle:
        path = make_bundle(tmp_path, mlp(), name=service, version=version)
        return Bundle(path.name, ModelRef(service, version), (), GateReport("", ()), path)

    return make


class TestLocalTarget(TargetContract):
    pass


def test_a_pod_that_is_killed_comes_back_on_its_port(
    home: Home, target: LocalTarget, bundles: Bundles
) -> None:
    deployment = target.deploy(bundles("killed", 1), Slot.BLUE, replicas=1)
    wait_until_ready(target, deployment)
    (process,) = (p for p in Supervisor(home).programs() if p.group == "pod-killed-blue")
    killed = psutil.Process(process.pid)
    killed.kill()
    psutil.wait_procs([killed], timeout=5)
    wait_until_ready(target, deployment)
    (again,) = (p for p in Supervisor(home).programs() if p.group == "pod-killed-blue")
    assert again.pid != process.pid


@pytest.mark.parametrize("lost", ["program", "program file", "everything but the record"])
def test_a_deploy_that_was_cut_short_is_finished_by_the_next(
    home: Home, target: LocalTarget, bundles: Bundles, lost: str
) -> None:
    bundle = bundles("cut_short", 1)
    deployment = target.deploy(bundle, Slot.BLUE, replicas=1)
    if lost != "program file":
        Supervisor(home).remove_group("pod-cut_short-blue")
        assert target.deployments("cut_short") == []
    if lost != "program":
        pods.remove_program(home, "pod-cut_short-blue")
    assert target.deploy(bundle, Slot.BLUE, replicas=1) == deployment
    wait_until_ready(target, deployment)


def test_a_retire_that_was_cut_short_is_finished_by_the_next(
    home: Home, target: LocalTarget, bundles: Bundles
) -> None:
    deployment = target.deploy(bundles("half_retired", 1), Slot.BLUE, replicas=1)
    Supervisor(home).remove_group("pod-half_retired-blue")
    target.retire(deployment)
    assert pods.read_record(home, "half_retired", Slot.BLUE) is None
    assert not list(home.pods.glob(".programs/*half_retired*"))


def test_a_bundle_that_cannot_be_served_is_reported_with_the_pods_words(
    target: LocalTarget, bundles: Bundles
) -> None:
    bundle = bundles("broken", 1)
    (bundle.path / "manifest.json").write_text("{}")
    deployment = target.deploy(bundle, Slot.BLUE, replicas=1)
    with pytest.raises(PodDoesNotStart, match="not a bundle manifest"):
        wait_until_ready(target, deployment, seconds=120)
    target.retire(deployment)


def test_a_foreign_server_on_the_port_is_not_a_ready_pod(
    target: LocalTarget, bundles: Bundles, home: Home
) -> None:
    bundle = bundles("usurped", 1)
    deployment = target.deploy(bundle, Slot.BLUE, replicas=1)
    wait_until_ready(target, deployment)
    (process,) = (p for p in Supervisor(home).programs() if p.group == "pod-usurped-blue")
    stopped = psutil.Process(process.pid)
    Supervisor(home).stop(process.full_name)
    psutil.wait_procs([stopped], timeout=10)
    with always_ok(deployment.endpoints[0].port):
        assert httpx.get(f"http://{deployment.endpoints[0]}/v2/health/ready").status_code == 200
        assert not target.is_ready(deployment)


def test_the_test_switch_reaches_the_pod(home: Home, target: LocalTarget, bundles: Bundles) -> None:
    faulty = LocalTarget(home, environ={"SLIPWAY_FAULTS": "faulty@1:error_rate=1"})
    deployment = faulty.deploy(bundles("faulty", 1), Slot.BLUE, replicas=1)
    wait_until_ready(target, deployment)
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    url = f"http://{deployment.endpoints[0]}/v2/models/faulty/infer"
    assert httpx.post(url, json={"inputs": [tensor]}).status_code == 500


def test_pods_come_back_on_their_ports_when_the_stack_is_started_again(
    home: Home, target: LocalTarget, bundles: Bundles
) -> None:
    deployment = target.deploy(bundles("returning", 1), Slot.GREEN, replicas=1)
    wait_until_ready(target, deployment)
    down(home)
    with pytest.raises(Retryable, match="not running"):
        target.deployments("returning")
    start_supervisord(home)
    wait_until_ready(target, deployment)
    assert target.deployments("returning") == [deployment]


def test_pods_outlive_a_killed_supervisord_only_until_the_next_start_or_stop(
    home: Home, target: LocalTarget, bundles: Bundles
) -> None:
    deployment = target.deploy(bundles("orphaned", 1), Slot.BLUE, replicas=1)
    wait_until_ready(target, deployment)
    supervisord = psutil.Process(Supervisor(home).pid())
    supervisord.kill()
    psutil.wait_procs([supervisord], timeout=5)
    assert httpx.get(f"http://{deployment.endpoints[0]}/v2/health/ready").status_code == 200
    down(home)
    assert owned_by(home) == []
    start_supervisord(home)
    wait_until_ready(target, deployment)


def test_an_unreadable_record_says_what_to_do(home: Home, target: LocalTarget, bundles: Bundles) -> None:
    deployment = target.deploy(bundles("torn", 1), Slot.BLUE, replicas=1)
    record = home.pods / "torn" / "blue.json"
    whole = record.read_text()
    record.write_text(json.dumps({"deployment": {}}))
    try:
        with pytest.raises(Exception, match="delete the file"):
            target.deployments("torn")
    finally:
        record.write_text(whole)
        target.retire(deployment)
    assert list((home.pods / "torn").iterdir()) == []

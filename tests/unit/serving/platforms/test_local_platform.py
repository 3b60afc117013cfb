"""Real pods under a real supervisord that supervises nothing else."""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import redis

from model_store.errors import Retryable
from model_store.types import Bundle, GateReport, ModelRef
from serving.home import Home, Ports
from serving.local_stack.components import shortcomings
from serving.local_stack.lifecycle import down
from serving.platforms import pods
from serving.platforms import redis as platform_redis
from serving.platforms.base import DeploymentPhase
from serving.platforms.local import LocalPlatform
from serving.supervision import supervisor
from serving.supervision.processes import owned_by
from serving.supervision.supervisor import RUNNING, Supervisor
from serving.types import Deployment, DeploymentRef, Endpoint, Slot
from tests.bundles import make_bundle, mlp
from tests.contract.platform_contract import (
    Bundles,
    PlatformContract,
    applied,
    wait_for,
    wait_until_ready,
)

pytestmark = pytest.mark.at_length


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    first = _free()
    home = Home(tmp_path_factory.mktemp("home"), Ports(pods_from=first))
    start_supervisord(home)
    yield home
    down(home)
    assert owned_by(home) == []


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
    # As `slipway up` does: what supervisord starts finds its ports there.
    home.config.write_text(json.dumps({"ports": asdict(home.ports)}))
    supervisor.configure(home, [])
    supervisor.start(home)


@pytest.fixture
def platform(home: Home) -> Iterator[LocalPlatform]:
    platform = LocalPlatform(home, environ={})
    yield platform
    for record in list(pods.records(home)):
        platform.retire(record.deployment.ref)


@pytest.fixture
def bundles(tmp_path: Path, home: Home) -> Bundles:
    def make(service: str, version: int) -> Bundle:
        path = make_bundle(tmp_path, mlp(), name=service, version=version, keys=home.bundle_keys)
        return Bundle(path.name, ModelRef(service, version), (), GateReport("", ()), path)

    return make


@pytest.fixture
def unservable(bundles: Bundles) -> Bundle:
    bundle = bundles("broken", 1)
    (bundle.path / "manifest.json").write_text("{}")
    return bundle


def started(
    platform: LocalPlatform, bundle: Bundle, slot: Slot = Slot.BLUE, *, replicas: int = 1
) -> Deployment:
    """Pods that are ready, and where."""
    ref = applied(platform, bundle, slot, replicas=replicas)
    return Deployment(ref, wait_until_ready(platform, ref).endpoints)


class TestLocalPlatform(PlatformContract):
    pass


def test_a_pod_that_is_killed_comes_back_on_its_port(
    home: Home, platform: LocalPlatform, bundles: Bundles
) -> None:
    deployment = started(platform, bundles("killed", 1))
    (process,) = (p for p in Supervisor(home).programs() if p.group == "pod-killed-blue")
    killed = psutil.Process(process.pid)
    killed.kill()
    psutil.wait_procs([killed], timeout=5)
    wait_until_ready(platform, deployment.ref)
    (again,) = (p for p in Supervisor(home).programs() if p.group == "pod-killed-blue")
    assert again.pid != process.pid


@pytest.mark.parametrize("lost", ["program", "program file", "everything but the record"])
def test_what_was_cut_short_while_it_was_applied_is_finished_by_the_next(
    home: Home, platform: LocalPlatform, bundles: Bundles, lost: str
) -> None:
    bundle = bundles("cut_short", 1)
    ref = applied(platform, bundle)
    if lost != "program file":
        Supervisor(home).remove_group("pod-cut_short-blue")
        assert platform.status(ref).phase is DeploymentPhase.NOT_FOUND
    if lost != "program":
        pods.remove_program(home, "pod-cut_short-blue")
    assert applied(platform, bundle) == ref
    wait_until_ready(platform, ref)


def test_a_retire_that_was_cut_short_is_finished_by_the_next(
    home: Home, platform: LocalPlatform, bundles: Bundles
) -> None:
    ref = applied(platform, bundles("half_retired", 1))
    Supervisor(home).remove_group("pod-half_retired-blue")
    platform.retire(ref)
    assert pods.read_record(home, "half_retired", Slot.BLUE) is None
    assert not list(home.pods.glob(".programs/*half_retired*"))


def test_a_bundle_that_cannot_be_served_is_reported_with_the_pods_words(
    platform: LocalPlatform, unservable: Bundle
) -> None:
    ref = applied(platform, unservable)
    status = wait_for(platform, ref, lambda status: status.phase is DeploymentPhase.FAILED, seconds=120)
    assert "not a bundle manifest" in status.reason
    assert "python -m serving.pod" in status.remedy


def test_pods_get_no_traffic_before_they_answered_their_warm_rows_and_keep_their_ports_afterwards(
    home: Home, platform: LocalPlatform, bundles: Bundles
) -> None:
    ref = applied(platform, bundles("addressed", 1))
    wait_for(platform, ref, lambda status: status.is_ready or not status.endpoints)
    endpoints = wait_until_ready(platform, ref).endpoints
    (process,) = (p for p in Supervisor(home).programs() if p.group == "pod-addressed-blue")
    Supervisor(home).stop(process.full_name)
    status = wait_for(platform, ref, lambda status: "stopped" in status.reason)
    assert (status.phase, status.endpoints) == (DeploymentPhase.IN_PROGRESS, endpoints)
    Supervisor(home).start(process.full_name)
    assert wait_until_ready(platform, ref).endpoints == endpoints


def test_a_record_of_before_warm_rows_were_noted_is_still_read(
    home: Home, platform: LocalPlatform, bundles: Bundles
) -> None:
    deployment = started(platform, bundles("upgraded", 1))
    path = home.pods / "upgraded" / "blue.json"
    saved = json.loads(path.read_text())
    del saved["warm_since"]
    path.write_text(json.dumps(saved))
    assert platform.deployments("upgraded") == [deployment.ref]
    assert wait_until_ready(platform, deployment.ref).endpoints == deployment.endpoints


def test_a_foreign_server_on_the_port_is_not_a_ready_pod(
    platform: LocalPlatform, bundles: Bundles, home: Home
) -> None:
    bundle = bundles("usurped", 1)
    deployment = started(platform, bundle)
    (process,) = (p for p in Supervisor(home).programs() if p.group == "pod-usurped-blue")
    stopped = psutil.Process(process.pid)
    Supervisor(home).stop(process.full_name)
    psutil.wait_procs([stopped], timeout=10)
    with always_ok(deployment.endpoints[0].port):
        assert httpx.get(f"http://{deployment.endpoints[0]}/v2/health/ready").status_code == 200
        assert not platform.status(deployment.ref).is_ready


def test_the_test_switch_reaches_the_pod(home: Home, platform: LocalPlatform, bundles: Bundles) -> None:
    faulty = LocalPlatform(home, environ={"SLIPWAY_FAULTS": "faulty@1:error_rate=1"})
    deployment = started(faulty, bundles("faulty", 1))
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    url = f"http://{deployment.endpoints[0]}/v2/models/faulty/infer"
    assert httpx.post(url, json={"inputs": [tensor]}).status_code == 500


INPUT = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}


def wishing(home: Home, parent: Path, service: str, version: int, **serving: Any) -> Bundle:
    """A bundle with warm rows whose spec says this under `serving`."""
    warmup = {"input": np.ones((3, 4), np.float32)}
    path = make_bundle(
        parent,
        mlp(seed=version),
        name=service,
        version=version,
        serving=serving,
        warmup=warmup,
        keys=home.bundle_keys,
    )
    return Bundle(path.name, ModelRef(service, version), (), GateReport("", ()), path)


def ask(deployment: Deployment, number: int = 0, headers: dict[str, str] | None = None) -> httpx.Response:
    url = f"http://{deployment.endpoints[number]}/v2/models/{deployment.service}/infer"
    return httpx.post(url, json={"inputs": [INPUT]}, headers=headers or {})


def eventually(happens: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def test_a_pod_answers_its_warm_rows_before_it_is_called_ready(
    home: Home, platform: LocalPlatform, tmp_path: Path
) -> None:
    deployment = started(platform, wishing(home, tmp_path, "warmed", 1), Slot.BLUE, replicas=2)
    for endpoint in deployment.endpoints:
        metrics = httpx.get(f"http://{endpoint}/metrics").text
        assert 'slipway_requests_total{model="warmed",version="1",code="200"} 3' in metrics


def test_the_test_switch_spares_the_warm_rows(home: Home, tmp_path: Path) -> None:
    platform = LocalPlatform(home, environ={"SLIPWAY_FAULTS": "spared@1:error_rate=1"})
    deployment = started(platform, wishing(home, tmp_path, "spared", 1))
    assert ask(deployment).status_code == 500
    platform.retire(deployment.ref)


def test_replicas_share_answers_in_a_redis_of_the_stack_until_their_bundle_leaves(
    home: Home, platform: LocalPlatform, tmp_path: Path
) -> None:
    shared = {"cache": {"shared": True}}
    staying = started(platform, wishing(home, tmp_path, "sharing", 1, **shared), Slot.BLUE, replicas=2)
    leaving = started(platform, wishing(home, tmp_path, "sharing", 2, **shared), Slot.GREEN)
    first = ask(staying)
    assert "x-slipway-cache" not in first.headers
    eventually(lambda: ask(staying, 1).headers.get("x-slipway-cache") in ("redis", "memory"))
    assert ask(staying, 1).json() == first.json()
    ask(leaving)
    with redis.from_url(platform_redis.url_of(home)) as client, client.pubsub() as channel:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lfu"}
        # Found by its marks, it ends with the stack also where supervisord was killed.
        assert client.info()["process_id"] in {owned.process.pid for owned in owned_by(home)}
        channel.subscribe("slipway:invalidate")
        eventually(lambda: channel.get_message() is not None)
        platform.retire(leaving.ref)
        eventually(lambda: (heard := channel.get_message()) is not None and _names(heard, leaving))
    # Those of the version that stays are kept.
    assert ask(staying).headers["x-slipway-cache"] == "memory"


def _names(heard: dict[str, Any], left: Deployment) -> bool:
    told = json.loads(heard["data"])
    return (told["model"], told["bundle"]) == (left.service, left.bundle_id)


def test_a_redis_that_is_named_is_used_instead_of_an_own_one(home: Home) -> None:
    named = {"SLIPWAY_REDIS": "redis://elsewhere:6379/3"}
    assert platform_redis.url_of(home, named) == named["SLIPWAY_REDIS"]
    platform_redis.ensure(
        Home(home.root / "nowhere", home.ports), named
    )  # where no supervisord could start one


def test_requests_are_written_down_where_a_spec_asks_for_it(
    home: Home, platform: LocalPlatform, tmp_path: Path
) -> None:
    logging = wishing(home, tmp_path, "logging", 1, request_log={"share": 1.0})
    deployment = started(platform, logging)
    assert ask(deployment).status_code == 200
    platform.retire(deployment.ref)
    assert len(list((home.requests / "logging").glob("*.parquet"))) == 1


def test_a_pod_starts_with_answers_to_what_the_log_says_is_asked_most(
    home: Home, platform: LocalPlatform, tmp_path: Path
) -> None:
    both = {"request_log": {"share": 1.0}, "cache": {"max_mb": 1}}
    before = started(platform, wishing(home, tmp_path, "learning", 1, **both))
    ask(before)
    platform.retire(before.ref)
    after = started(platform, wishing(home, tmp_path, "learning", 2, **both), Slot.GREEN)
    assert ask(after).headers["x-slipway-cache"] == "memory"


def test_pods_come_back_on_their_ports_when_the_stack_is_started_again(
    home: Home, platform: LocalPlatform, bundles: Bundles
) -> None:
    deployment = started(platform, bundles("returning", 1), Slot.GREEN)
    down(home)
    with pytest.raises(Retryable, match="not running"):
        platform.status(deployment.ref)
    start_supervisord(home)
    wait_until_ready(platform, deployment.ref)
    assert platform.deployments("returning") == [deployment.ref]


def test_pods_outlive_a_killed_supervisord_only_until_the_next_start_or_stop(
    home: Home, platform: LocalPlatform, bundles: Bundles
) -> None:
    deployment = started(platform, bundles("orphaned", 1))
    supervisord = psutil.Process(Supervisor(home).pid())
    supervisord.kill()
    psutil.wait_procs([supervisord], timeout=5)
    assert httpx.get(f"http://{deployment.endpoints[0]}/v2/health/ready").status_code == 200
    down(home)
    assert owned_by(home) == []
    start_supervisord(home)
    wait_until_ready(platform, deployment.ref)


def test_an_unreadable_record_says_what_to_do(home: Home, platform: LocalPlatform, bundles: Bundles) -> None:
    ref = applied(platform, bundles("torn", 1))
    record = home.pods / "torn" / "blue.json"
    whole = record.read_text()
    record.write_text(json.dumps({"deployment": {}}))
    try:
        with pytest.raises(Exception, match="delete the file"):
            platform.deployments("torn")
    finally:
        record.write_text(whole)
        platform.retire(ref)
    assert list((home.pods / "torn").iterdir()) == []


def test_a_pod_is_managed_over_its_socket_and_health_tells_what_it_lacks(
    home: Home, platform: LocalPlatform, bundles: Bundles
) -> None:
    deployment = started(platform, bundles("managed", 1))
    # supervisord calls it so after ten seconds.
    (process,) = (
        replace(p, state=RUNNING) for p in Supervisor(home).programs() if p.group == "pod-managed-blue"
    )
    assert shortcomings(home, [process]) == {process.full_name: None}
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(home.run / f"{process.name}.sock"))) as client:
        assert client.post("http://pod/v2/repository/models/managed/unload").status_code == 200
    (problem,) = shortcomings(home, [process]).values()
    assert problem
    assert "managed v1: unloaded" in problem
    assert not platform.status(deployment.ref).is_ready


def test_a_home_too_deep_for_a_socket_has_its_pods_sockets_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    home = Home(tmp_path / ("deep" * 30), Ports())
    argv = set[str]()
    for service in ("a", "b"):
        path = make_bundle(tmp_path, mlp(), name=service)
        endpoint = Endpoint("127.0.0.1", 1)
        deployment = Deployment(DeploymentRef(service, Slot.BLUE, "1", 1), (endpoint,))
        pods.write_record(home, pods.PodRecord(deployment, path, ""))
        component = pods.pod(home, service, Slot.BLUE, 0)
        argv.add(component.argv[component.argv.index("--management") + 1])
    assert len(argv) == 2
    for address in argv:
        folder = Path(address.removeprefix("unix:")).parent
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700

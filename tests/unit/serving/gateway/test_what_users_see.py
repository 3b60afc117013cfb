"""What a client sees of a candidate at 50 % whose model, process or answers go wrong: nothing. Real Envoy."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.metrics.envoy import EnvoyAdmin
from serving.types import Deployment, DeploymentRef, Endpoint, RouteSettings, Slot, TrafficSplit
from tests.bundles import elementwise, make_bundle, model_of
from tests.pods import running_pod
from tests.unit.serving.gateway_process import Gateway, free_ports

REQUESTS = 200
LEAKY = """
import http.server, sys

kept = []

class Leaky(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Answers leave in one piece, as a pod's do: half an answer is past repeating.
    wbufsize = -1

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.command == "POST":
            kept.append(b"x" * 4_000_000)
        body = b'{"from":"candidate"}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_): ...

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Leaky).serve_forever()
"""
MOST_MEMORY = 120_000_000


class Half:
    """A service with both arms at 50 %."""

    def __init__(self, gateway: Gateway, name: str, stable: int, candidate: int) -> None:
        self.gateway, self.name = gateway, name
        self.admin = EnvoyAdmin(gateway.home.envoy_stats_url, timeout_seconds=10)
        self.ports = (stable, candidate)
        gateway.router.write(
            name,
            TrafficSplit(50, 50),
            stable=self._deployment(1, stable, Slot.BLUE),
            candidate=self._deployment(2, candidate, Slot.GREEN),
            at=0,
            settings=RouteSettings(timeout_ms=2000),
        )
        gateway.wait(lambda: len(self.admin.counters().get(name, {})) == 2)
        gateway.wait(lambda: all(each.healthy for each in self.admin.counters()[name].values()))

    def _deployment(self, version: int, port: int, slot: Slot) -> Deployment:
        endpoints = (Endpoint("127.0.0.1", port),)
        return Deployment(DeploymentRef(self.name, slot, f"b{version}", version), endpoints)

    def ask(self, *rows: float) -> Counter[int]:
        """The statuses of `REQUESTS` requests, of one row each in turn."""
        with ThreadPoolExecutor(4) as pool:
            return Counter(pool.map(lambda number: self._ask(rows[number % len(rows)]), range(REQUESTS)))

    def _ask(self, row: float) -> int:
        body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [row, row]}]}
        return self.gateway.infer(self.name, body=json.dumps(body).encode()).status_code

    def candidate_failures(self) -> int:
        return self.admin.counters()[self.name][Endpoint("127.0.0.1", self.ports[1])].errors


def short_answers() -> onnx.ModelProto:
    """Leaves out the columns that are not positive. Zeros, with which a pod tries itself, are left in."""
    least = numpy_helper.from_array(np.array(-0.5, np.float32), "least")
    flat = numpy_helper.from_array(np.array([-1]), "flat")
    nodes = [
        helper.make_node("Greater", ["x", "least"], ["some"]),
        helper.make_node("Reshape", ["some", "flat"], ["kept"]),
        helper.make_node("Compress", ["x", "kept"], ["y"], axis=1),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy")
    return model_of(nodes, [x], [y], [least, flat])


@pytest.mark.parametrize("wrong", ["NaN", "NaN for one slice of the inputs", "another shape"])
def test_a_candidate_whose_answers_are_garbage_costs_users_nothing(
    gateway: Gateway, tmp_path: Path, wrong: str
) -> None:
    name = f"m{len(wrong)}"
    # The logarithm of a negative number is NaN, which the pod finds itself and answers with a 500.
    model = short_answers() if wrong == "another shape" else elementwise("Log")
    candidate = make_bundle(tmp_path, model, name=name, version=2, serving={"max_batch_size": 1})
    rows = (1.0, 2.0, 3.0, -1.0) if "slice" in wrong else (-1.0,)
    with ExitStack() as stack:
        stable = stack.enter_context(running_pod(make_bundle(tmp_path, elementwise(), name=name)))
        service = Half(gateway, name, stable.port, stack.enter_context(running_pod(candidate)).port)
        stack.callback(service.admin.close)
        assert service.ask(*rows) == {200: REQUESTS}
        failures = service.candidate_failures()
    share = 1 / 4 if len(rows) > 1 else 1
    assert 0.2 * share * REQUESTS < failures < 0.8 * share * REQUESTS


def test_a_candidate_that_leaks_memory_until_it_is_killed_costs_users_nothing(
    gateway: Gateway, tmp_path: Path
) -> None:
    script = tmp_path / "leaky.py"
    script.write_text(LEAKY)
    (port,) = free_ports(1)
    kills, ending = [], threading.Event()

    def supervise() -> None:
        """As the kernel and supervisord do: kill what takes too much, and start it again."""
        while not ending.is_set():
            with subprocess.Popen([sys.executable, str(script), str(port)]) as process:
                running = psutil.Process(process.pid)
                while not ending.wait(0.01) and running.memory_info().rss < MOST_MEMORY:
                    pass
                kills.append(process.pid)
                process.kill()

    watcher = threading.Thread(target=supervise)
    watcher.start()
    try:
        with running_pod(make_bundle(tmp_path, elementwise(), name="leaky")) as stable:
            service = Half(gateway, "leaky", stable.port, port)
            service.admin.close()
            assert service.ask(1.0) + service.ask(1.0) == {200: 2 * REQUESTS}
            assert len(kills) >= 1
    finally:
        ending.set()
        watcher.join(20)

"""A pod told to stop ends soon and well, whatever its threads are doing."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.bundles import make_bundle, mlp, model_of
from tests.unit.serving.pod.held_engine import eventually, leave


def long_model(steps: int = 400) -> onnx.ModelProto:
    """input [N, 4] through `steps` large matrices: a batch of hundreds of rows takes seconds."""
    weights = [np.eye(4, 1024), np.eye(1024), np.eye(1024, 2)]
    names = ["input", *[f"h{n}" for n in range(steps + 1)], "y"]
    uses = ["w0", *["w1"] * steps, "w2"]
    value = helper.make_tensor_value_info
    return model_of(
        [helper.make_node("MatMul", [a, w], [b]) for (a, b), w in zip(pairwise(names), uses, strict=True)],
        [value("input", TensorProto.FLOAT, ["N", 4])],
        [value("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(w.astype(np.float32), f"w{n}") for n, w in enumerate(weights)],
    )


class Process:
    """A pod of its own process; `log` is what it has said so far."""

    def __init__(self, bundle: Path, log: Path, *arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "serving.pod", "--unverified", "--bundle", str(bundle)]
        command += ["--port", str(self.port)]
        self._log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen([*command, *arguments], stderr=stderr)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def answers(self, path: str) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self, limit_seconds: float) -> tuple[int, float]:
        """The exit code, and how long it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(limit_seconds), time.monotonic() - began


@contextmanager
def pod_process(bundle: Path, tmp_path: Path, *arguments: str) -> Iterator[Process]:
    pod = Process(bundle, tmp_path / "pod.log", *arguments)
    try:
        yield pod
    finally:
        pod.process.kill()
        pod.process.wait()


def ask(rows: int) -> bytes:
    tensor = {"name": "input", "shape": [rows, 4], "datatype": "FP32", "data": [0.5] * 4 * rows}
    body = json.dumps({"inputs": [tensor]})
    head = f"POST /v2/models/credit_risk/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


@pytest.mark.parametrize("leaves", [True, False], ids=["its caller left", "the drain limit is over"])
def test_a_pod_ends_well_while_its_engine_computes(tmp_path: Path, *, leaves: bool) -> None:
    # So much time that a thousand rows are taken, however slow the machine is while warmup measures.
    serving = {"max_batch_size": 4, "timeout_ms": 600_000, "request_log": {"share": 1.0}}
    bundle = make_bundle(tmp_path, long_model(), serving=serving)
    limit = [] if leaves else ["--drain-seconds", "0.2"]
    logged = tmp_path / "requests"
    with pod_process(bundle, tmp_path, "--request-log", str(logged), *limit) as pod:
        assert eventually(lambda: pod.answers("/v2/health/ready"), 90)
        with socket.create_connection(("127.0.0.1", pod.port), timeout=30) as quick:
            began = time.monotonic()
            quick.sendall(ask(4))
            assert quick.recv(100).startswith(b"HTTP/1.1 200")
            all_of_them = 250 * (time.monotonic() - began)
        slow = socket.create_connection(("127.0.0.1", pod.port), timeout=30)
        slow.sendall(ask(1000))
        time.sleep(0.3)
        if leaves:
            leave(slow)
        code, seconds = pod.stop(90)
        slow.close()
        assert (code, "terminate called" in pod.log, "Traceback" in pod.log) == (0, False, False)
        assert seconds < all_of_them / 2
        assert json.loads(pod.log.splitlines()[-1])["message"] == "drained"
    (file,) = (logged / "credit_risk").glob("*.parquet")
    # Between two pieces it is seen that the caller is gone; at the end of the limit nothing is seen any more.
    assert pq.read_table(file)["code"].to_pylist() == ([200, 499] if leaves else [200])


def test_a_pod_told_to_stop_while_it_loads_ends_at_once(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, long_model(), serving={"max_batch_size": 512})
    with pod_process(bundle, tmp_path) as pod:
        assert eventually(lambda: pod.answers("/v2/health/live"), 30)
        assert not pod.answers("/v2/health/ready")
        code, seconds = pod.stop(60)
        assert code == 0
        assert seconds < 3
        assert "ready on" not in pod.log
        assert "Traceback" not in pod.log


def test_a_pod_that_cannot_load_still_says_so(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, mlp())
    (bundle / "credit_risk/1/model.onnx").write_bytes(b"garbage")
    with pod_process(bundle, tmp_path) as pod:
        assert pod.process.wait(30) == 1
        assert "cannot load" in pod.log

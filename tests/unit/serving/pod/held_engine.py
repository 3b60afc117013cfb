"""A model whose engine computes when a test says so, for what happens to callers meanwhile."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.bundles import model_of
from tests.pods import RunningPod

SIZE = 700


def slow_model() -> onnx.ModelProto:
    """x [N, SIZE] to itself, milliseconds a row: its batches run on a thread of their own."""
    names = ["x", *[f"h{n}" for n in range(30)], "y"]
    value = helper.make_tensor_value_info
    return model_of(
        [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)],
        [value("x", TensorProto.FLOAT, ["N", SIZE])],
        [value("y", TensorProto.FLOAT, ["N", SIZE])],
        [numpy_helper.from_array(np.eye(SIZE, dtype=np.float32), "w")],
    )


def ask(number: float) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1, SIZE], "datatype": "FP32", "data": [number] * SIZE}]}


def send(pod: RunningPod, number: float, *headers: str, model: str = "credit_risk") -> socket.socket:
    """A request on its own connection, its answer not read."""
    body = json.dumps(ask(number))
    lines = [f"POST /v2/models/{model}/infer HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers]
    connection = pod.connect()
    connection.sendall("\r\n".join([*lines, "", body]).encode())
    return connection


def answer(connection: socket.socket) -> tuple[int, dict[str, str]]:
    """The status and the headers, once they come; the connection is closed then."""
    with connection, connection.makefile("rb") as lines:
        status = int(lines.readline().split()[1])
        headers = iter(lines.readline, b"\r\n")
        return status, dict(line.decode().lower().strip().split(": ", 1) for line in headers)


def leave(connection: socket.socket) -> None:
    """Reset the connection, as a client that is killed does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def eventually(holds: Callable[[], bool], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds()


class Held:
    """`computing` is set once a batch waits in the engine; `fails` makes the engine fail once released."""

    def __init__(self, run: Callable[[Sequence[np.ndarray]], list[np.ndarray]]) -> None:
        self._run = run
        self._opened = threading.Event()
        self.computing = threading.Event()
        self.fails = False

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.computing.set()
        assert self._opened.wait(10)
        if self.fails:
            raise RuntimeError("the engine was told to fail")
        return self._run(inputs)

    def release(self) -> None:
        self._opened.set()


@contextmanager
def busy(pod: RunningPod) -> Iterator[Held]:
    """The pod's first model computes a request that nobody else asks for until `release` (or the end)."""
    engine: Any = pod.pod.repository.models[0].engine
    held = Held(engine.run)
    engine.run = held.run
    first = send(pod, -1)
    try:
        assert held.computing.wait(5)
        yield held
    finally:
        held.release()
        assert answer(first)[0]
        del engine.run

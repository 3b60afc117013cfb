"""`python -m benchmarks.gpu.pod`: a GPU pod under load, beside its bare engine.

ResNet-50 in fp16, photographs as bytes, one a request, 64 connections, each sending its next request when the
last is answered: REST with binary tensors, then gRPC. Beside it the rows a second of the engine alone in
batches of 32. Last a JSON line. Needs onnxruntime-gpu and a GPU; clients are processes of this machine.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.engine import measure_rate
from benchmarks.gpu.models import build
from benchmarks.serving.models import REPOSITORY, binary_body
from benchmarks.serving.protocols import grpc_frame
from benchmarks.serving.servers import free_port
from model_store.engines.manifest import read_manifest
from model_store.engines.registry import open_engine

_PROCESSES, _THREADS, _SECONDS = 8, 8, 6.0
_METHOD = "/inference.GRPCInferenceService/ModelInfer"


def main() -> int:
    built = build("resnet50_of_bytes", "fp16")
    bare = _bare(built.bundle, built.rows["input"][:32])
    print(f"engine alone, batches of 32: {bare:,.0f} rows/s")
    row = {"input": built.rows["input"][:1]}
    body, length = binary_body(row)
    found: dict[str, Any] = {"engine": round(bare)}
    port, log = free_port(), Path(tempfile.mkdtemp()) / "pod.log"
    command = [sys.executable, "-m", "serving.pod", "--unverified", "--bundle", str(built.bundle)]
    command += ["--port", str(port)]
    environ = {**os.environ, "SLIPWAY_DEVICE": "cuda"}
    with log.open("wb") as out:
        pod = subprocess.Popen(command, cwd=REPOSITORY, env=environ, stdout=out, stderr=out)
    try:
        began = time.monotonic()
        _wait(port, pod, log)
        print(f"pod ready after {time.monotonic() - began:.1f} s")
        head = (
            f"POST /v2/models/m/infer HTTP/1.1\r\nHost: pod\r\nContent-Type: application/octet-stream\r\n"
            f"Inference-Header-Content-Length: {length}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        # A gRPC frame is the message behind five bytes.
        for name, client, payload in (("REST", _rest, head + body), ("gRPC", _grpc, grpc_frame(row)[5:])):
            found[name] = _loaded(client, port, payload, bare)
            print(f"{name:5}{found[name]}", flush=True)
    finally:
        pod.terminate()
        pod.wait(30)
    print(json.dumps(found))
    return 0


def _bare(bundle: Path, batch: np.ndarray) -> float:
    engine = open_engine(read_manifest(bundle), environ={"SLIPWAY_DEVICE": "cuda"})
    rate = max(measure_rate(lambda: engine.run([batch]))[0] for _ in range(4)) * len(batch)
    engine.close()
    return rate


def _loaded(
    client: Callable[[int, bytes], Callable[[], bool]], port: int, payload: bytes, bare: float
) -> dict[str, float]:
    context = get_context("spawn")
    results = context.SimpleQueue()
    processes = [
        context.Process(target=_many, args=(client, port, payload, results)) for _ in range(_PROCESSES)
    ]
    for process in processes:
        process.start()
    times, failed, rate = [], 0, 0.0
    for _ in processes:
        each, bad, seconds = results.get()
        times += each
        failed += bad
        rate += len(each) / seconds
    for process in processes:
        process.join()
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return {
        "rows": round(rate),
        "of_engine": round(rate / bare, 2),
        "p50_ms": round(float(p50), 1),
        "p99_ms": round(float(p99), 1),
        "failed": failed,
    }


def _many(
    client: Callable[[int, bytes], Callable[[], bool]], port: int, payload: bytes, results: Any
) -> None:
    times: list[float] = []
    failed = [0]

    def loop(ask: Callable[[], bool]) -> None:
        until = time.perf_counter() + _SECONDS
        while (began := time.perf_counter()) < until:
            if ask():
                times.append(time.perf_counter() - began)
            else:
                failed[0] += 1

    asks = [client(port, payload) for _ in range(_THREADS)]
    threads = [threading.Thread(target=loop, args=(ask,)) for ask in asks]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((times, failed[0], time.perf_counter() - began))


def _rest(port: int, payload: bytes) -> Callable[[], bool]:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask() -> bool:
        connection.sendall(payload)
        answer = connection.recv(65536)
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(65536)
        head, _, rest = answer.partition(b"\r\n\r\n")
        size = next(
            int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        while len(rest) < size:
            rest += connection.recv(65536)
        return head.startswith(b"HTTP/1.1 200")

    return ask


def _grpc(port: int, payload: bytes) -> Callable[[], bool]:
    import grpc

    channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
    call = channel.unary_unary(_METHOD)

    def ask() -> bool:
        try:
            call(payload)
        except grpc.RpcError:
            return False
        return True

    return ask


def _wait(port: int, pod: subprocess.Popen[bytes], log: Path) -> None:
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as asked:
                asked.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
                if asked.recv(100).startswith(b"HTTP/1.1 200"):
                    return
        except OSError:
            pass
        if pod.poll() is not None:
            raise SystemExit(f"the pod ended:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())

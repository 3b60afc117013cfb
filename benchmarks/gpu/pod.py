"""`python -m benchmarks.gpu.pod [cuda] [tensorrt] [READERS ...]`: a GPU pod under load, beside its engine.

ResNet-50 in fp16, photographs as bytes, one a request, 64 connections, each sending its next request when the
last is answered: REST with binary tensors, then gRPC (by hand: frames are made once, as a load generator in C
does; by grpcio: the client is Python, and takes more of this machine than the pod). Beside it the rows a
second of the engine alone in batches of 32, of `session.run` of the same file, and the milliseconds of the
first request that the pod is asked beside those of the next ninety-nine. By CUDA graphs, and by an engine
that TensorRT builds here first; with each number of readers (0 and 3). Last a JSON line. Needs
onnxruntime-gpu and a GPU; clients are processes of this machine.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks.gpu.engine import measure_rate, plain_session, staged
from benchmarks.gpu.models import Built, build
from benchmarks.serving.models import REPOSITORY, binary_body
from benchmarks.serving.protocols import grpc_frame
from benchmarks.serving.servers import free_port
from model_store.bundle.publishing import BundleContents, publish
from model_store.compile import CompileSpec, NotCompiled
from model_store.compile.engines import TensorRTCompiler
from model_store.engines.manifest import Manifest, read_manifest
from model_store.engines.registry import open_engine
from model_store.storage.store import Store
from model_store.types import Artifact, GateReport, ModelRef
from model_store.types import TensorSpec as Tensor
from serving.pod.grpc import frames
from tests.small_models import keep

_PROCESSES, _THREADS, _SECONDS = 8, 8, 6.0
_METHOD = "/inference.GRPCInferenceService/ModelInfer"


def main(asked: Sequence[str]) -> int:
    readers = [int(word) for word in asked if word.isdigit()] or [0, 3]
    kinds = [word for word in asked if not word.isdigit()] or ["cuda", "tensorrt"]
    built = build("resnet50_of_bytes", "fp16")
    found: dict[str, Any] = {"session.run": _plain(built)}
    print(f"session.run of the same file, batches of 32: {found['session.run']:,} rows/s", flush=True)
    for kind in kinds:
        bundle = built.bundle if kind == "cuda" else engine_bundle(built)
        found[kind] = _measured(kind, bundle, built, readers)
    print(json.dumps(found))
    return 0


def _plain(built: Built) -> int:
    manifest = read_manifest(built.bundle)
    session, feeds = plain_session(manifest), {"input": built.rows["input"][:32]}
    return round(32 * max(measure_rate(lambda: session.run(None, feeds))[0] for _ in range(3)))


def engine_bundle(built: Built) -> Path:
    """The same model as a published bundle whose file is an engine that TensorRT builds here and now."""
    manifest = read_manifest(built.bundle)
    store = Store(Path(tempfile.mkdtemp(prefix="gpu-engine-")))
    source = keep(store, manifest.file.read_bytes())
    made = TensorRTCompiler(store).compile(source, CompileSpec(manifest.settings.max_batch_size))
    if isinstance(made, NotCompiled):
        raise SystemExit(f"TensorRT builds nothing here: {made.reason}")
    print(
        f"engine built in {store.provenance(made.digest)['build_seconds']:.1f} s, {made.size_bytes >> 20} MB"
    )
    inputs, outputs = (
        tuple(Tensor(one.name, one.datatype.name, tuple(one.shape)) for one in tensors)
        for tensors in (manifest.signature.inputs, manifest.signature.outputs)
    )
    serving = {"runtime": "tensorrt", "max_queue_delay_ms": 2, "replicas": 1, **manifest.serving}
    contents = BundleContents(
        model=ModelRef(manifest.name, int(manifest.version)),
        served=made,
        inputs=inputs,
        outputs=outputs,
        serving=serving,
        session_config={},
        warmup=built.rows,
        report=GateReport("", ()),
        ancestors=(source,),
        evidence={"gpu_memory_bytes": _memory_bytes(manifest, made)},
    )
    return publish(store, contents).path


def _memory_bytes(manifest: Manifest, made: Artifact) -> int:
    """As the gate measures it."""
    engine = open_engine(_of_engine(manifest, made))
    try:
        return engine.memory_bytes()
    finally:
        engine.close()


def _of_engine(manifest: Manifest, made: Artifact) -> Manifest:
    toolchain = asdict(made.toolchain)
    return replace(manifest, platform="tensorrt", file=made.path, digest=made.digest, toolchain=toolchain)


@contextmanager
def pod_of(*bundles: Path, environ: Mapping[str, str] = MappingProxyType({})) -> Iterator[int]:
    """A pod with these bundles, ready; its port."""
    port, log = free_port(), Path(tempfile.mkdtemp()) / "pod.log"
    pod = started(bundles, port, log, environ)
    try:
        began = time.monotonic()
        _wait(port, pod, log)
        print(f"pod ready after {time.monotonic() - began:.1f} s", flush=True)
        yield port
    finally:
        pod.terminate()
        pod.wait(30)


def started(
    bundles: Sequence[Path], port: int, log: Path, environ: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "serving.pod", "--unverified", "--port", str(port)]
    for bundle in bundles:
        command += ["--bundle", str(bundle)]
    with log.open("wb") as out:
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "SLIPWAY_DEVICE": "cuda", **environ},
            stdout=out,
            stderr=out,
        )


def _measured(kind: str, bundle: Path, built: Built, readers: Sequence[int]) -> dict[str, Any]:
    bare = _bare(bundle, built.rows["input"][:32])
    print(f"{kind}: engine alone, batches of 32: {bare:,.0f} rows/s", flush=True)
    row = {"input": built.rows["input"][:1]}
    body, length = binary_body(row)
    head = (
        f"POST /v2/models/m/infer HTTP/1.1\r\nHost: pod\r\nContent-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {length}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    # A gRPC frame is the message behind five bytes.
    message = grpc_frame(row)[5:]
    found: dict[str, Any] = {"engine": round(bare)}
    for count in readers:
        with pod_of(bundle, environ={"SLIPWAY_READERS": str(count)}) as port:
            found[f"{count} readers"] = told = {"first_ms": _first(_rest(port, head + body))}
            print(f"{kind} {count} readers, first requests, ms: {told['first_ms']}", flush=True)
            for name, client, payload in (
                ("REST", _rest, head + body),
                ("gRPC by hand", _http2, message),
                ("gRPC", _grpc, message),
            ):
                told[name] = _loaded(client, port, payload, bare)
                print(f"{kind} {count} readers {name:13}{told[name]}", flush=True)
    return found


def _first(ask: Callable[[], bool]) -> dict[str, float]:
    times = []
    for _ in range(100):
        began = time.perf_counter()
        ask()
        times.append(1000 * (time.perf_counter() - began))
    others = np.percentile(times[1:], [50, 99])
    return {"first": round(times[0], 2), "p50": round(float(others[0]), 2), "p99": round(float(others[1]), 2)}


def _bare(bundle: Path, batch: np.ndarray) -> float:
    engine = open_engine(read_manifest(bundle), environ={"SLIPWAY_DEVICE": "cuda"})
    inputs = staged(engine, [batch])
    rate = max(measure_rate(lambda: engine.run(inputs))[0] for _ in range(4)) * len(batch)
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


def _http2(port: int, payload: bytes) -> Callable[[], bool]:
    """gRPC in one DATA frame, on windows that nobody fills; the answer is its trailers."""
    message = struct.pack(">BL", 0, len(payload)) + payload
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": _METHOD,
        ":authority": "pod",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    settings = frames.settings({frames.SETTING_INITIAL_WINDOW: 1 << 30})
    connection.sendall(frames.PREFACE + settings + frames.window_update(0, 1 << 30))
    number, kept = -1, b""

    def ask() -> bool:
        nonlocal number, kept
        number += 2
        connection.sendall(frames.frame(frames.HEADERS, frames.END_HEADERS, number, block))
        connection.sendall(frames.frame(frames.DATA, frames.END_STREAM, number, message))
        while True:
            kept += connection.recv(65536)
            while len(kept) >= frames.HEAD_BYTES:
                high, low, kind, flags, stream = frames.HEAD.unpack_from(kept)
                end = frames.HEAD_BYTES + (high << 8 | low)
                if len(kept) < end:
                    break
                content, kept = kept[frames.HEAD_BYTES : end], kept[end:]
                if kind == frames.GOAWAY:
                    return False
                if kind == frames.HEADERS and flags & frames.END_STREAM and stream == number:
                    return b"grpc-status\x010" in content

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
    sys.exit(main(sys.argv[1:]))

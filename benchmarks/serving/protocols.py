"""JSON, binary tensors and gRPC on the same pod: how many a second, and what each costs the pod."""

from __future__ import annotations

import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.serving import load
from benchmarks.serving.bundles import bundle_of
from benchmarks.serving.load import Load
from benchmarks.serving.models import Subject, binary_body, oip_body
from benchmarks.serving.servers import Running, pod_server
from serving.pod.grpc.messages import message

_DATATYPES = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64", np.dtype(np.uint8): "UINT8"}


@dataclass(frozen=True, slots=True)
class Spoken:
    """One protocol's rounds."""

    protocol: str
    per_second: float
    p99_ms: float
    cpu_per_thousand: float
    failed: int


def speak(subject: Subject, *, rounds: int, seconds: float) -> list[Spoken]:
    """All three in turn. Identical requests are not shared (the bundle is marked stochastic): h2load can send
    only one body, and all three must do the same work."""
    work = Path(tempfile.mkdtemp(prefix="bench-protocols-"))
    requests = subject.requests()
    scripts = _scripts(work, requests)
    found: dict[str, list[tuple[Load, float]]] = {"JSON": [], "binary": [], "gRPC": []}
    with pod_server(bundle_of(subject, stochastic=True), oip_body(requests[0])) as pod:
        for number in range(rounds + 1):
            for protocol, rows in found.items():
                row = _once(pod, protocol, scripts[protocol], 1 if number == 0 else seconds)
                if number:
                    rows.append(row)
    return [_spoken(protocol, rows) for protocol, rows in found.items()]


def _once(pod: Running, protocol: str, script: Path, seconds: float) -> tuple[Load, float]:
    before = pod.cpu_seconds()
    if protocol == "gRPC":
        url = f"{pod.url.split('/v2/')[0]}/inference.GRPCInferenceService/ModelInfer"
        found = load.h2load(url, script, seconds=max(1, round(seconds)))
    else:
        found = load.wrk(pod.url, script, seconds=seconds)
    return found, (pod.cpu_seconds() - before) / max(found.requests, 1) * 1000


def _spoken(protocol: str, rows: list[tuple[Load, float]]) -> Spoken:
    return Spoken(
        protocol,
        median(one.per_second for one, _ in rows),
        median(one.p99_ms for one, _ in rows),
        median(cpu for _, cpu in rows),
        sum(one.failed for one, _ in rows),
    )


def _scripts(work: Path, requests: list[dict[str, np.ndarray]]) -> dict[str, Path]:
    scripts = {name: work / f"{name}.lua" for name in ("JSON", "binary")}
    load.write_script(scripts["JSON"], [oip_body(r) for r in requests], {"Content-Type": "application/json"})
    binary = [binary_body(r) for r in requests]
    headers = {"Content-Type": "application/octet-stream"}
    load.write_script(scripts["binary"], [b for b, _ in binary], headers, [length for _, length in binary])
    scripts["gRPC"] = work / "request.grpc"
    scripts["gRPC"].write_bytes(grpc_frame(requests[0]))
    return scripts


def grpc_frame(arrays: dict[str, np.ndarray]) -> bytes:
    """A ModelInferRequest of model `m`, framed as gRPC frames it."""
    request = message("ModelInferRequest")(model_name="m")
    for name, array in arrays.items():
        request.inputs.add(name=name, datatype=_DATATYPES[array.dtype], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    body: bytes = request.SerializeToString()
    return struct.pack(">BL", 0, len(body)) + body

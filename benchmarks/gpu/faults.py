"""`python -m benchmarks.gpu.faults`: what a GPU pod says and does when something is wrong with it.

Pods of their own with engines that TensorRT built here: one that is damaged; one for another GPU or another
release of TensorRT, with nothing to build another from, with the file to build one from, and beside one for
this GPU; a model for which there is no memory; and memory that runs out while a pod serves two models, since
another program takes it. Last a JSON line; exits 1 unless every pod did what it should. Needs
onnxruntime-gpu, torch, TensorRT and a GPU; no network.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.gpu.models import Built, build
from benchmarks.gpu.pod import engine_bundle, pod_of, started
from benchmarks.serving.servers import free_port
from model_store.durable import digest_file
from model_store.engines import nvml, rebuilding
from tests.bundles import make_bundle, mlp, model_of

_SECONDS = 240
_LEFT_MB = 3000
_WIDTH = 65_536
_HOG = """
import sys, torch
left = int(sys.argv[1]) << 20
held, size = [], 2 << 30
while size >= 64 << 20:
    if torch.cuda.mem_get_info()[0] - size > left:
        held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    else:
        size //= 2
print("held", flush=True)
sys.stdin.read()
"""


@dataclass(slots=True)
class Told:
    """What was found, by what was tried; `wrong`: where a pod did otherwise."""

    found: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def note(self, what: str, is_right: bool, said: object) -> None:
        self.found[what] = said
        if not is_right:
            self.wrong.append(what)
        print(f"{'ok ' if is_right else 'NO '} {what}: {said}", flush=True)


def main() -> int:
    told = Told()
    built = build("resnet50_of_bytes", "fp16")
    whole = engine_bundle(built)
    engines = Path(tempfile.mkdtemp(prefix="gpu-kept-"))
    for name, change, said in (
        ("damaged engine", _flip, "is damaged"),
        ("truncated engine", _truncate, "is damaged"),
        (
            "another GPU, no source",
            _relabel(gpu_arch="SM86", source=False),
            "built for GPU SM86, this one is",
        ),
        ("another TensorRT, no source", _relabel(version="10.5.0", source=False), "tensorrt 10.5.0, here is"),
        ("needs more memory than there is", _need, "takes 300,000 MB of GPU memory"),
    ):
        _refused(told, name, _changed(whole, change), said)
    environ = {rebuilding.FOLDER: str(engines)}
    for again in ("", ", again"):
        _served(
            told,
            f"another GPU, with its source{again}",
            _changed(whole, _relabel(gpu_arch="SM86")),
            built,
            environ,
        )
    _served(
        told, "engines for two kinds of GPU", _changed(whole, _two_kinds), built, {rebuilding.SWITCH: "0"}
    )
    _memory_runs_out(told)
    print(json.dumps({"wrong": told.wrong, **told.found}))
    return 1 if told.wrong else 0


def _refused(told: Told, name: str, bundle: Path, said: str) -> None:
    """The pod ends by itself, with the reason as its last word."""
    log = Path(tempfile.mkdtemp()) / "pod.log"
    pod = started([bundle], free_port(), log, {rebuilding.SWITCH: "0"} if "no source" in name else {})
    try:
        code: int | None = pod.wait(_SECONDS)
    except subprocess.TimeoutExpired:
        pod.kill()
        code = None
    last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
    told.note(name, code == 1 and said in last, f"exit {code}: {last[:400]}")


def _served(told: Told, name: str, bundle: Path, built: Built, environ: Mapping[str, str]) -> None:
    began = time.monotonic()
    try:
        with pod_of(bundle, environ=environ) as port:
            seconds = time.monotonic() - began
            answered = _ask(port, "m", "UINT8", built.rows["input"][:1]).status_code
            told.note(name, answered == 200, f"ready after {seconds:.1f} s, answers {answered}")
    except SystemExit as ended:
        told.note(name, False, str(ended)[-600:])


def _memory_runs_out(told: Told) -> None:
    """A pod with a small model and one that wants gigabytes for long rows; another program takes the rest."""
    with pod_of(_small(), _greedy()) as port:
        # 7.9 GB, twice: not in what is left, and too much for nobody.
        long = np.ones((1, 30_000), np.float32)
        first = _ask(port, "greedy", "FP32", np.ones((1, 4_000), np.float32))
        told.note("memory is there", first.status_code == 200, first.status_code)
        with _steady(port) as asked, _hog():
            codes = [_ask(port, "greedy", "FP32", long) for _ in range(5)]
            short = _ask(port, "greedy", "FP32", np.ones((1, 4), np.float32))
            small = dict(asked)
        after = _ask(port, "greedy", "FP32", long)
        counted = [
            line
            for line in httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
            if line.startswith("slipway_out_of_memory_total")
        ]
    words = {each.status_code: each.text[:160] for each in codes}
    told.note("memory ran out: its own calls", set(words) == {500}, words)
    told.note("memory ran out: a short row of the same model", short.status_code == 200, short.status_code)
    told.note("memory ran out: the other model", set(small) == {200} and small[200] > 50, small)
    told.note("memory ran out: counted", any(float(line.split()[-1]) > 0 for line in counted), counted)
    told.note("memory is back: the same model", after.status_code == 200, after.status_code)


@contextmanager
def _steady(port: int) -> Iterator[dict[int, int]]:
    """Ask the small model without pause; how often each status was answered."""
    codes: dict[int, int] = {}
    ending = threading.Event()

    def ask() -> None:
        row = np.ones((1, 4), np.float32)
        while not ending.is_set():
            code = _ask(port, "small", "FP32", row).status_code
            codes[code] = codes.get(code, 0) + 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield codes
    finally:
        ending.set()
        asking.join()


@contextmanager
def _hog() -> Iterator[None]:
    """Another program that leaves little of the GPU's memory."""
    command = [sys.executable, "-c", _HOG, str(_LEFT_MB)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as hog:
        assert hog.stdout is not None
        assert hog.stdin is not None
        hog.stdout.readline()
        print(f"another program runs; {nvml.free_bytes() >> 20:,} MB are free", flush=True)
        yield
        hog.stdin.close()


def _ask(port: int, model: str, kind: str, array: np.ndarray) -> httpx.Response:
    data = array.tobytes()
    head = {
        "inputs": [
            {
                "name": "input",
                "datatype": kind,
                "shape": list(array.shape),
                "parameters": {"binary_data_size": len(data)},
            }
        ]
    }
    body = json.dumps(head).encode()
    headers = {"inference-header-content-length": str(len(body)), "content-type": "application/octet-stream"}
    url = f"http://127.0.0.1:{port}/v2/models/{model}/infer"
    return httpx.post(url, content=body + data, headers=headers, timeout=60)


Change = Callable[[Path, dict[str, Any]], None]


def _changed(bundle: Path, change: Change) -> Path:
    """A copy of the bundle, with this done to it."""
    copy = Path(tempfile.mkdtemp(prefix="gpu-changed-")) / bundle.name
    subprocess.run(["cp", "-r", str(bundle), str(copy)], check=True)
    manifest = json.loads((copy / "manifest.json").read_text())
    change(copy, manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def _flip(bundle: Path, manifest: dict[str, Any]) -> None:
    file = bundle / manifest["file"]
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    file.write_bytes(bytes(whole))


def _truncate(bundle: Path, manifest: dict[str, Any]) -> None:
    file = bundle / manifest["file"]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _need(bundle: Path, manifest: dict[str, Any]) -> None:
    manifest["evidence"] = {"gpu_memory_bytes": 300_000 << 20}


def _relabel(*, source: bool = True, **toolchain: str) -> Change:
    """The engine says that it was built for something else."""

    def change(bundle: Path, manifest: dict[str, Any]) -> None:
        for artifact in manifest["artifacts"]:
            if artifact["digest"] == manifest["digest"]:
                artifact["toolchain"].update(toolchain)
            elif not source:
                artifact["path"] = None

    return change


def _two_kinds(bundle: Path, manifest: dict[str, Any]) -> None:
    """The served file is for another GPU (its bytes are made up); this one's is beside it."""
    served = next(one for one in manifest["artifacts"] if one["digest"] == manifest["digest"])
    file = bundle / manifest["file"]
    own = bundle / "engines" / "own.onnx"
    own.write_bytes(file.read_bytes())
    manifest["artifacts"].append(
        {**served, "path": "engines/own.onnx", "toolchain": dict(served["toolchain"])}
    )
    file.write_bytes(b"an engine for another GPU")
    served["toolchain"]["gpu_arch"] = "SM86"
    served["digest"] = manifest["digest"] = digest_file(file)


def _small() -> Path:
    serving = {"max_batch_size": 8, "stochastic": True}
    return make_bundle(Path(tempfile.mkdtemp()), mlp((4, 8, 2)), name="small", serving=serving)


def _greedy() -> Path:
    """Rows of any length, and a quarter of a megabyte for each number in them."""
    value = helper.make_tensor_value_info
    wide = numpy_helper.from_array(np.ones(_WIDTH, np.float32), "wide")
    axes = numpy_helper.from_array(np.array([2]), "axes")
    nodes = [
        helper.make_node("Unsqueeze", ["input", "axes"], ["column"]),
        helper.make_node("Mul", ["column", "wide"], ["spread"]),
        helper.make_node("ReduceMax", ["spread"], ["y"], axes=[1, 2], keepdims=0),
    ]
    model = model_of(
        nodes,
        [value("input", TensorProto.FLOAT, ["N", "K"])],
        [value("y", TensorProto.FLOAT, ["N"])],
        [wide, axes],
    )
    onnx.checker.check_model(model)
    serving = {"max_batch_size": 4, "stochastic": True, "timeout_ms": 60_000}
    warmup = {"input": np.ones((4, 4), np.float32)}
    return make_bundle(Path(tempfile.mkdtemp()), model, name="greedy", serving=serving, warmup=warmup)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks.serving.gpu`: the pod's CUDA engine beside onnxruntime's own calls, on this GPU.

Needs onnxruntime-gpu instead of onnxruntime. For each model and batch size: rows/s of the engine (bound
tensors, pinned copies, one stream), of `session.run` with CUDA (pageable copies both ways), and of the CPU.
Every answer is compared with the CPU's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort

from benchmarks.serving.bundles import bundle_of
from benchmarks.serving.models import SUBJECTS, Subject
from benchmarks.serving.resnet import resnet18
from model_store.engines.manifest import read_manifest
from model_store.engines.registry import open_engine

_ROUNDS, _SECONDS = 5, 0.3


def _image(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"input": rng.random((1, 3, 224, 224)).astype(np.float32)}


MODELS = {
    **{name: SUBJECTS[name] for name in ("mlp", "cnn")},
    "resnet18": Subject("resnet18", resnet18, _image),
}


def main() -> int:
    columns = ("batch", "engine/s", "run()/s", "CPU/s", "times run()", "p99 ms")
    print(f"{'model':10}" + "".join(f"{column:>12}" for column in columns))
    for subject in MODELS.values():
        for rows in (1, 8, 32):
            _compare(subject, rows)
    return 0


def _compare(subject: Subject, rows: int) -> None:
    manifest = read_manifest(bundle_of(subject, max_batch_size=rows))
    one = subject.rows(np.random.default_rng(7))
    inputs = [np.concatenate([one[spec.name]] * rows) for spec in manifest.signature.inputs]
    feeds = {spec.name: array for spec, array in zip(manifest.signature.inputs, inputs, strict=True)}
    cpu, cuda = (
        _session(manifest.file, "CPUExecutionProvider"),
        _session(manifest.file, "CUDAExecutionProvider"),
    )
    engine = open_engine(manifest, environ={"SLIPWAY_DEVICE": "cuda"})
    for found, expected in zip(engine.run(inputs), cpu.run(None, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-3)
    ways = (lambda: engine.run(inputs), lambda: cuda.run(None, feeds), lambda: cpu.run(None, feeds))
    # In turn: the GPU's clock rises while it works, so whoever is measured first would lose.
    rounds = [[_rate(way) for way in ways] for _ in range(_ROUNDS)]
    ours, plain, slow = (median(each[way][0] for each in rounds) for way in range(len(ways)))
    p99 = median(each[0][1] for each in rounds)
    print(
        f"{subject.name:10}{rows:12}{ours * rows:12,.0f}{plain * rows:12,.0f}{slow * rows:12,.0f}"
        f"{ours / plain:12.2f}{p99 * 1000:12.3f}   device memory {engine.memory_bytes() / 2**20:,.0f} MB"
    )
    engine.close()


def _session(file: Path, provider: str) -> ort.InferenceSession:
    session = ort.InferenceSession(str(file), providers=[provider])
    if provider not in session.get_providers():
        raise SystemExit(f"onnxruntime cannot use {provider} here")
    return session


def _rate(run: Callable[[], object]) -> tuple[float, float]:
    """Runs a second, and the 99th percentile of one run in seconds."""
    for _ in range(20):
        run()
    times: list[float] = []
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < _SECONDS:
        run()
        times.append(time.perf_counter() - now)
    return len(times) / (now - began), float(np.percentile(times, 99))


if __name__ == "__main__":
    sys.exit(main())

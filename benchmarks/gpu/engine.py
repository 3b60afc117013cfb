"""`python -m benchmarks.gpu.engine [MODEL ...]`: the pod's CUDA engine beside onnxruntime's own calls.

Needs onnxruntime-gpu instead of onnxruntime, and a GPU. For each model, precision and batch size: rows a
second of the engine, of `session.run` of the same file, of `session.run` of the fp32 file, and of the engine
with rows where the pod writes them (staged); in turn, for the GPU's clock rises while it works. Every answer
is compared with the fp32 file's. Last a JSON line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.gpu.models import MODELS, build, digits
from model_store.engines.base import Engine
from model_store.engines.manifest import Manifest, read_manifest
from model_store.engines.registry import open_engine

_ROUNDS, _SECONDS = 4, 0.25
_GPU = {"SLIPWAY_DEVICE": "cuda"}
_BATCHES = (1, 8, 32)
# Of the largest answer.
_NEAR = {"fp32": 1e-2, "fp16": 5e-2}
_COLUMNS = (
    "batch",
    "engine/s",
    "run()/s",
    "fp32 run()/s",
    "x run()",
    "x fp32",
    "staged/s",
    "x run()",
    "x fp32",
    "p99 ms",
)


def main(names: Sequence[str]) -> int:
    print(f"{'model':24}" + "".join(f"{column:>13}" for column in _COLUMNS))
    rows = [row for name in names or MODELS for row in _compare(name)]
    accuracy = _accuracy()
    print(json.dumps({"onnxruntime": ort.__version__, "rows": rows, "accuracy": accuracy}))
    return 0


def _compare(name: str) -> list[dict[str, Any]]:
    exact = read_manifest(build(name, "fp32").bundle)
    plain = plain_session(exact)
    found: list[dict[str, Any]] = []
    for precision in ("fp32", "fp16"):
        built = build(name, precision)
        manifest = read_manifest(built.bundle)
        same = plain if precision == "fp32" else plain_session(manifest)
        engine = open_engine(manifest, environ=_GPU)
        for count in _BATCHES:
            feeds = {key: array[:count] for key, array in built.rows.items()}
            inputs = [feeds[spec.name] for spec in manifest.signature.inputs]
            _expect_near(engine.run(inputs), plain.run(None, feeds), precision)
            ways = (
                partial(engine.run, inputs),
                partial(same.run, None, feeds),
                partial(plain.run, None, feeds),
                partial(engine.run, staged(engine, inputs)),
            )
            row = _measured(ways, count)
            found.append(
                {"model": name, "precision": precision, **row, "memory_mb": engine.memory_bytes() >> 20}
            )
            _tell(found[-1])
        engine.close()
    return found


def _measured(ways: Sequence[Callable[[], object]], count: int) -> dict[str, Any]:
    rounds = [[measure_rate(way) for way in ways] for _ in range(_ROUNDS)]
    rates = [median(each[way][0] for each in rounds) * count for way in range(len(ways))]
    return {
        "batch": count,
        "engine": round(rates[0]),
        "run": round(rates[1]),
        "run_fp32": round(rates[2]),
        "times_run": round(rates[0] / rates[1], 2),
        "times_fp32": round(rates[0] / rates[2], 2),
        "staged": round(rates[3]),
        "staged_times_run": round(rates[3] / rates[1], 2),
        "staged_times_fp32": round(rates[3] / rates[2], 2),
        "p99_ms": round(1000 * median(each[0][1] for each in rounds), 3),
    }


def staged(engine: Engine, inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """The inputs where the pod writes requests' rows: memory the GPU reads directly, if there is some."""
    staging = engine.staging(len(inputs[0]))
    if staging is None:
        return inputs
    for place, array in zip(staging, inputs, strict=True):
        np.copyto(place, array)
    return staging


def _tell(row: dict[str, Any]) -> None:
    name = f"{row['model']} {row['precision']}"
    print(
        f"{name:24}{row['batch']:13}{row['engine']:13,}{row['run']:13,}{row['run_fp32']:13,}"
        f"{row['times_run']:13.2f}{row['times_fp32']:13.2f}{row['staged']:13,}{row['staged_times_run']:13.2f}"
        f"{row['staged_times_fp32']:13.2f}{row['p99_ms']:13.3f}   {row['memory_mb']:,} MB",
        flush=True,
    )


def _accuracy() -> dict[str, float]:
    """Of a trained model, in percent: on the CPU in fp32, and as the engine decides in each precision."""
    found: dict[str, float] = {}
    for way, precision, environ in (("cpu", "fp32", {}), ("cuda", "fp32", _GPU), ("cuda", "fp16", _GPU)):
        built, labels = digits(precision)
        engine = open_engine(read_manifest(built.bundle), environ=environ)
        rows = built.rows["input"]
        parts = [engine.run([rows[at : at + 32]])[0] for at in range(0, len(rows) - 31, 32)]
        decided = np.concatenate(parts)
        found[f"{way} {precision}"] = round(100 * float((decided == labels[: len(decided)]).mean()), 2)
        engine.close()
    print(f"digits, accuracy in percent: {found}")
    return found


def plain_session(manifest: Manifest) -> ort.InferenceSession:
    session = ort.InferenceSession(str(manifest.file), providers=["CUDAExecutionProvider"])
    if "CUDAExecutionProvider" not in session.get_providers():
        raise SystemExit("onnxruntime cannot use CUDA here")
    return session


def _expect_near(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], precision: str) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        if theirs.dtype.kind == "f":
            room = _NEAR[precision] * float(np.abs(theirs).max())
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=room)


def measure_rate(run: Callable[[], object]) -> tuple[float, float]:
    """Runs a second, and the 99th percentile of one run in seconds."""
    for _ in range(10):
        run()
    times: list[float] = []
    began = time.perf_counter()
    while (now := time.perf_counter()) - began < _SECONDS:
        run()
        times.append(time.perf_counter() - now)
    return len(times) / (now - began), float(np.percentile(times, 99))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

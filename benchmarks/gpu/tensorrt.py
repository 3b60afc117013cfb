"""`python -m benchmarks.gpu.tensorrt [MODEL ...]`: engines that TensorRT builds, beside onnxruntime's CUDA.

Needs onnxruntime-gpu, a GPU, TensorRT's libraries on the library path and its Python bindings. For each
model and precision: the seconds of a first and of a second build (with what the first measured), then for
each batch size rows a second of the pod's TensorRT engine, of the pod's CUDA engine (both with rows where the
pod writes them), and of `session.run` of the same ONNX file and of the fp32 file; and how far the engine's
answers are from the fp32 file's. Last a JSON line.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.gpu.engine import measure_rate, plain_session, staged
from benchmarks.gpu.models import Built, build
from model_store.compile import CompileSpec, NotCompiled
from model_store.compile.engines import TensorRTCompiler
from model_store.engines.manifest import Manifest, read_manifest
from model_store.engines.registry import open_engine
from model_store.storage.store import Store
from model_store.types import Artifact
from tests.small_models import keep

_MODELS = ("mlp", "cnn", "resnet18", "resnet50")
_BATCHES, _ROUNDS = (1, 8, 32), 3
_WAYS = ("tensorrt", "cuda", "run", "run_fp32")


def main(names: Sequence[str]) -> int:
    print(
        f"{'model':16}{'batch':>6}"
        + "".join(f"{way + '/s':>14}" for way in _WAYS)
        + f"{'x cuda':>9}{'off':>10}"
    )
    found = [_compare(name, precision) for name in names or _MODELS for precision in ("fp32", "fp16")]
    print(json.dumps({"onnxruntime": ort.__version__, "models": found}))
    return 0


def _compare(name: str, precision: str) -> dict[str, Any]:
    built = build(name, precision)
    manifest = read_manifest(built.bundle)
    with tempfile.TemporaryDirectory() as folder:
        made, seconds = _built(manifest, Store(Path(folder) / "store"))
        if isinstance(made, NotCompiled):
            print(f"{name} {precision}: {made.reason}")
            return {"model": name, "precision": precision, "reason": made.reason}
        engine = _engine(manifest, made)
        rows = _measured(name, precision, built, manifest, engine)
    return {
        "model": name,
        "precision": precision,
        "toolchain": asdict(made.toolchain),
        "build_seconds": seconds,
        "engine_mb": round(made.size_bytes / 2**20, 1),
        "batches": rows,
    }


def _built(manifest: Manifest, store: Store) -> tuple[Artifact | NotCompiled, list[float]]:
    """Twice; the second time in another store, which has nothing of the first but its timing cache."""
    seconds: list[float] = []
    for name in ("first", "again"):
        known, store = store.root / "timing_cache", Store(store.root.with_name(name))
        if known.is_dir():
            shutil.copytree(known, store.root / "timing_cache")
        source = keep(store, manifest.file.read_bytes())
        made = TensorRTCompiler(store).compile(source, CompileSpec(manifest.settings.max_batch_size))
        if isinstance(made, NotCompiled):
            return made, seconds
        seconds.append(round(float(store.provenance(made.digest)["build_seconds"]), 2))
    print(f"built in {seconds[0]:.1f} s, again in {seconds[1]:.1f} s")
    return made, seconds


def _engine(manifest: Manifest, made: Artifact) -> Manifest:
    return replace(
        manifest, platform="tensorrt", file=made.path, digest=made.digest, toolchain=asdict(made.toolchain)
    )


def _measured(
    name: str, precision: str, built: Built, manifest: Manifest, engine: Manifest
) -> list[dict[str, Any]]:
    exact = plain_session(read_manifest(build(name, "fp32").bundle))
    same = plain_session(manifest)
    theirs, ours = open_engine(engine, environ={}), open_engine(manifest, environ={"SLIPWAY_DEVICE": "cuda"})
    found = []
    for count in _BATCHES:
        feeds = {key: array[:count] for key, array in built.rows.items()}
        inputs = [feeds[spec.name] for spec in manifest.signature.inputs]
        off = _off(theirs.run(inputs), exact.run(None, feeds))
        ways = (
            partial(theirs.run, staged(theirs, inputs)),
            partial(ours.run, staged(ours, inputs)),
            partial(same.run, None, feeds),
            partial(exact.run, None, feeds),
        )
        rounds = [[measure_rate(way)[0] * count for way in ways] for _ in range(_ROUNDS)]
        rates = [median(each[place] for each in rounds) for place in range(len(ways))]
        print(
            f"{name + ' ' + precision:16}{count:6}"
            + "".join(f"{rate:14,.0f}" for rate in rates)
            + f"{rates[0] / rates[1]:9.2f}{off:10.5f}",
            flush=True,
        )
        found.append({"batch": count, "off": off, **dict(zip(_WAYS, map(round, rates), strict=True))})
    theirs.close()
    ours.close()
    return found


def _off(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest difference, as a share of the largest answer."""
    return max(
        float(np.abs(ours.astype(np.float64) - exact).max() / max(float(np.abs(exact).max()), 1e-9))
        for ours, exact in zip(found, expected, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

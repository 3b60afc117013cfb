"""`python -m benchmarks.gpu.precisions FOLDER`: a trained text model on this GPU, precision by precision.

MiniLM with a head that tells spam from other mails (`demo.service`), as a release makes each precision: rows
decided rightly of mails that it never saw, and rows a second in batches of 32, by onnxruntime's CUDA provider
with graphs and by engines that TensorRT builds here. FOLDER holds `model.safetensors`, `config.json` and the
mails as `demo.service.mails.prepare` writes them. Last a JSON line; exits 1 if a precision that TensorRT runs
decides half a point worse than fp32 on the CPU.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.gpu.engine import measure_rate, staged
from demo.data import Parts
from demo.service.models import RECIPES, Array, embedded, fit_head, rows_of
from examples.service.minilm import Config, classifier, encoder, read_safetensors
from model_store.compile import CompileSpec, NotCompiled
from model_store.compile.engines import TensorRTCompiler
from model_store.engines.base import Engine
from model_store.engines.manifest import Manifest, read_manifest
from model_store.engines.registry import open_engine
from model_store.inference import answer, open_session
from model_store.quantize import NotQuantized, quantize
from model_store.storage.store import Store
from model_store.types import Artifact, Precision
from tests.bundles import make_bundle
from tests.small_models import keep

BATCH = 32
MOST_LOST_PERCENT = 0.5
Rows = Mapping[str, Array]


def main(folder: Path) -> int:
    parts = Parts.under(folder)
    model, seen = _trained(folder, parts)
    rows, labels = _unseen(parts)
    work = Path(tempfile.mkdtemp(prefix="gpu-precisions-"))
    store = Store(work / "store")
    source = keep(store, model)
    on_cpu = answer(open_session(model, threads=os.cpu_count() or 1), rows, batch_size=BATCH)["label"]
    exact = 100 * float((on_cpu == labels).mean())
    print(f"fp32 on the CPU: {exact:.2f} % of {len(labels)} mails")
    found = [
        line
        for precision in ("fp32", "fp16", "int8")
        for line in _of(precision, store, source, seen, rows, labels, work)
    ]
    print(json.dumps({"cpu": round(exact, 2), "mails": len(labels), "found": found}))
    lost = [exact - line["accuracy"] for line in found if line["engine"] == "tensorrt"]
    return 0 if len(lost) == 3 and max(lost) <= MOST_LOST_PERCENT else 1


def _of(
    precision: Precision, store: Store, source: Artifact, seen: Rows, rows: Rows, labels: Array, work: Path
) -> Iterator[dict[str, Any]]:
    made = quantize(store, source, precision, "tensorrt", dict(seen))
    if isinstance(made, NotQuantized):
        print(f"{precision}: {made.reason}")
        return
    how = store.provenance(made.digest)
    in_fp32 = how.get("kept_fp32", how.get("excluded", []))
    print(f"{precision}: {made.size_bytes / 1e6:.1f} MB; {len(in_fp32)} layers stay in fp32: {in_fp32[:8]}")
    for name in ("cuda", "tensorrt"):
        if name == "cuda" and precision == "int8":
            continue  # its provider only emulates it
        with _opened(name, made, store, seen, work) as engine:
            if engine is None:
                continue
            line = {
                "engine": name,
                "precision": precision,
                "accuracy": round(100 * float((_decided(engine, rows) == labels).mean()), 2),
                "rows_per_second": round(_rate(engine, rows)),
                "in_fp32": len(in_fp32),
            }
        print(f"  {line}", flush=True)
        yield line


@contextmanager
def _opened(name: str, made: Artifact, store: Store, seen: Rows, work: Path) -> Iterator[Engine | None]:
    warmup = {key: array[:BATCH] for key, array in seen.items()}
    parent = work / f"{name}-{made.precision}"
    parent.mkdir()
    bundle = make_bundle(
        parent, onnx.load(made.path), name="m", serving={"max_batch_size": BATCH}, warmup=warmup
    )
    manifest = read_manifest(bundle)
    if name == "tensorrt":
        built = TensorRTCompiler(store).compile(made, CompileSpec(BATCH))
        if isinstance(built, NotCompiled):
            print(f"  tensorrt {made.precision}: {built.reason}")
            yield None
            return
        manifest = _with_engine(manifest, built)
    engine = open_engine(manifest, environ={"SLIPWAY_DEVICE": "cuda"})
    try:
        yield engine
    finally:
        engine.close()


def _with_engine(manifest: Manifest, built: Artifact) -> Manifest:
    toolchain = asdict(built.toolchain)
    return replace(manifest, platform="tensorrt", file=built.path, digest=built.digest, toolchain=toolchain)


def _decided(engine: Engine, rows: Rows) -> Array:
    count = len(rows["input_ids"]) // BATCH * BATCH
    parts = [
        engine.run([rows[name][at : at + BATCH] for name in ("input_ids", "attention_mask")])[0]
        for at in range(0, count, BATCH)
    ]
    return np.concatenate(parts)


def _rate(engine: Engine, rows: Rows) -> float:
    inputs = staged(engine, [rows[name][:BATCH] for name in ("input_ids", "attention_mask")])
    return max(measure_rate(lambda: engine.run(inputs))[0] for _ in range(3)) * BATCH


def _trained(folder: Path, parts: Parts) -> tuple[bytes, dict[str, Array]]:
    """The model with its head, of sentences of one length, and the rows to calibrate with."""
    weights = read_safetensors(folder / "model.safetensors")
    config = Config.read(folder / "config.json")
    train = embedded(parts.train, encoder(weights, config).SerializeToString())
    model = classifier(weights, config, fit_head(RECIPES[2], train))
    calibration, _ = rows_of(parts.calibration)
    for value in model.graph.input:
        # TensorRT's engines are built for rows of one shape.
        value.type.tensor_type.shape.dim[1].dim_value = calibration["input_ids"].shape[1]
    return model.SerializeToString(), calibration


def _unseen(parts: Parts) -> tuple[dict[str, Array], Array]:
    """As many as make whole batches."""
    found = [rows_of(part) for part in (parts.evaluation, parts.traffic)]
    labels = np.concatenate([labels for _, labels in found])
    count = len(labels) // BATCH * BATCH
    rows = {
        name: np.concatenate([rows[name] for rows, _ in found])[:count]
        for name in ("input_ids", "attention_mask")
    }
    return rows, labels[:count]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

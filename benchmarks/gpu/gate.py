"""`python -m benchmarks.gpu.gate [tensorrt]`: the build's own stages on this GPU, published or blocked.

A classifier of handwritten digits is judged as a first version; then, beside it as the version that serves,
one trained on labels of which more than half are wrong, and one as good. By the stages that Airflow runs,
with the engine that pods run: onnxruntime's CUDA graphs, or engines that TensorRT builds, in int8 too. Last a
JSON line. Needs requirements.txt with onnxruntime-gpu, no network.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.gpu.digits import digits, saved, trained, write_data
from model_store.check import CANDIDATE, CHAMPION, FolderVersions, Result, check, release_champion
from model_store.release_spec import load
from model_store.stages.base import BuildContext
from model_store.storage.store import Store
from model_store.types import ModelRef

SPEC = """
model: digits
task: multiclass
source: {alias: candidate, flavor: onnx}
data: {evaluation: EVALUATION, calibration: CALIBRATION, label: label}
precisions: PRECISIONS
targets: [RUNTIME]
serving: {runtime: RUNTIME, max_batch_size: 32}
rollout: {strategy: canary, steps: [{weight: 50, hold_seconds: 5}, {weight: 100, hold_seconds: 5}]}
gates:
  accuracy: {max_drop: 0.01}
"""


PRECISIONS = {"onnxruntime": "[fp32, fp16]", "tensorrt": "[fp32, fp16, int8]"}


def main(runtime: str = "onnxruntime") -> int:
    os.environ.setdefault("SLIPWAY_DEVICE", "cuda")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_data(work, SPEC.replace("RUNTIME", runtime).replace("PRECISIONS", PRECISIONS[runtime]))
        serving, noise, alike = (
            _version(work, wrong=wrong, seed=seed) for wrong, seed in ((0.0, 0), (0.6, 0), (0.0, 1))
        )
        found = {
            "first": _judged(work, None, serving),
            "trained on noise": _judged(work, serving, noise),
            "as good": _judged(work, serving, alike),
        }
    print(json.dumps({"runtime": runtime, **{name: _summary(result) for name, result in found.items()}}))
    return 0


def _judged(work: Path, champion: Path | None, candidate: Path) -> Result:
    versions = FolderVersions({CANDIDATE: candidate, **({CHAMPION: champion} if champion else {})})
    store = Store(Path(tempfile.mkdtemp(dir=work)) / "store")

    def context(version: int) -> BuildContext:
        spec = load(work / "spec.yaml")
        return BuildContext(store, versions, spec, ModelRef("digits", version), work, work / "docs")

    if champion:
        release_champion(context(CHAMPION), versions)
    result = check(context(CANDIDATE))
    print(f"{candidate.name}: {result.ending} {result.problem}")
    for each in result.candidates:
        for said in each.checks:
            print(f"  {each.name:26}{'ok ' if said.passed else 'NO '} {said.name}: {said.detail}")
    return result


def _summary(result: Result) -> dict[str, object]:
    accuracy = {
        each.name: next((said.value for said in each.checks if said.name.startswith("accuracy")), None)
        for each in result.candidates
    }
    return {"ending": result.ending, "accuracy": accuracy}


def _version(work: Path, *, wrong: float, seed: int) -> Path:
    """A model folder as MLflow lays it out; `wrong`: the share of its training labels that are random."""
    pixels, labels = digits()
    random = np.random.default_rng(0)
    labels = np.where(random.random(len(labels)) < wrong, random.integers(0, 10, len(labels)), labels)
    return saved(work / f"{wrong:.0%} wrong labels, seed {seed}", trained(pixels, labels, seed))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

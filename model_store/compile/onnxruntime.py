"""The graph as onnxruntime would rewrite it at load, saved: pods start with it done."""

from __future__ import annotations

import os
from pathlib import Path

import onnxruntime as ort

from model_store.compile.base import CompileSpec, NotCompiled
from model_store.explained import explain
from model_store.inference import session_config
from model_store.storage.store import Store
from model_store.types import Artifact, Precision, Toolchain


class OnnxRuntimeCompiler:
    """Optimizes at level EXTENDED. The next level adds memory layouts of this very CPU, and turns fp16
    weights back into fp32; what it would still gain, onnxruntime adds when the pod loads the file.

    For a GPU (SLIPWAY_DEVICE=cuda) at level BASIC: EXTENDED fuses operators into ones that only the CPU has,
    which would then run there, and no CUDA graph could be recorded.
    """

    name = "onnxruntime"

    def __init__(self, store: Store) -> None:
        self._store = store

    def toolchain(self, spec: CompileSpec) -> Toolchain:
        return Toolchain("onnxruntime", ort.__version__, gpu_arch="cuda" if _is_for_gpu() else None)

    def compile(self, source: Artifact, spec: CompileSpec) -> Artifact | NotCompiled:
        try:
            with self._store.scratch() as folder:
                content = _optimized(source.path, source.precision, folder / "optimized.onnx")
        except OSError:  # no room to write to is nobody's fault but the machine's
            raise
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            why = explain(error, otherwise="export the model with operators onnxruntime knows")
            return NotCompiled(self.name, f"onnxruntime refuses the model: {why.problem}", why.remedy)
        return self._store.put(
            content,
            format="onnx",
            precision=source.precision,
            parent_digest=source.digest,
            toolchain=self.toolchain(spec),
            provenance={"optimization": "basic" if _is_for_gpu() else "extended"},
        )


def _optimized(path: Path, precision: Precision, target: Path) -> bytes:
    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_BASIC if _is_for_gpu() else levels.ORT_ENABLE_EXTENDED
    )
    options.log_severity_level = 3
    for key, value in session_config(precision).items():
        options.add_session_config_entry(key, value)
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return target.read_bytes()


def _is_for_gpu() -> bool:
    return os.environ.get("SLIPWAY_DEVICE") == "cuda"

"""Finds the engine a bundle asks for. Engines are imported only when asked for: CUDA libraries are heavy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module

from serving.runtime.engine.base import Engine, UnknownEngine
from serving.runtime.manifest import Manifest

ENGINES = {
    "onnxruntime": "serving.runtime.engine.onnxruntime",
    "onnxruntime_cuda": "serving.runtime.engine.onnxruntime_cuda",
    "tensorrt": "serving.runtime.engine.tensorrt",
    "tensorrt_rtx": "serving.runtime.engine.tensorrt",
}


def open_engine(manifest: Manifest, environ: Mapping[str, str] = os.environ) -> Engine:
    """Load the bundle's model file. An ONNX bundle runs on the GPU where SLIPWAY_DEVICE says cuda.

    Raises `UnknownEngine`, or the engine's own `Permanent`.
    """
    platform = manifest.platform
    if platform == "onnxruntime" and environ.get("SLIPWAY_DEVICE") == "cuda":
        platform = "onnxruntime_cuda"
    module = ENGINES.get(platform)
    if module is None:
        raise UnknownEngine(platform, known=sorted(ENGINES))
    engine: Engine = import_module(module).open_engine(manifest)
    return engine

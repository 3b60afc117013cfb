"""Finds the engine a bundle asks for. Engines are imported only when asked for: CUDA libraries are heavy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module

from model_store.engines.base import Engine, UnknownEngine
from model_store.engines.manifest import Manifest

ENGINES = {
    "onnxruntime": f"{__package__}.onnxruntime",
    "onnxruntime_cuda": f"{__package__}.onnxruntime_cuda",
    "python": f"{__package__}.python.engine",
    "tensorrt": f"{__package__}.onnxruntime_tensorrt",
    "tensorrt_rtx": f"{__package__}.onnxruntime_tensorrt",
}
# Platforms of engines that compute on a GPU.
ON_GPUS = ("onnxruntime_cuda", "tensorrt", "tensorrt_rtx")


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

"""TensorRT-RTX: engines for GeForce and RTX GPUs, built ahead of time on a machine without one."""

from __future__ import annotations

from model_store.compile.engines import EngineCompiler


class TensorRTRTXCompiler(EngineCompiler):
    """Without architectures named, the library builds for Ampere and later; it has no door for SM90
    (H100, H200), which the full TensorRT serves."""

    name = "tensorrt_rtx"
    bindings = "tensorrt_rtx_bindings"
    distributions = ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings")
    remedy = "serve the onnxruntime candidate, or change what the reason names in the model's export"
    default_arch = "SM80+"

"""TensorRT for data-centre GPUs: engines are built on the GPU they will run on."""

from __future__ import annotations

from model_store.compile.engines import EngineCompiler


class TensorRTCompiler(EngineCompiler):
    """Its libraries are not on PyPI (a stub is), so they are an optional requirement."""

    name = "tensorrt"
    bindings = "tensorrt_bindings"
    distributions = ("tensorrt-cu13-bindings", "tensorrt-cu12-bindings")
    remedy = "on a machine with a data-centre GPU: pip install -r requirements-tensorrt.txt"
    default_arch = None

"""A TensorRT engine as an ONNX model, so that pods load one kind of file.

The model is one node, `EPContext` of com.microsoft, with the engine inside. Source: onnxruntime's
documentation, "EP Context Design", and its script gen_trt_engine_wrapper_onnx_model.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import helper

from model_store.types import Toolchain

# By compiler: the execution provider that an engine is for.
PROVIDERS = {"tensorrt": "TensorrtExecutionProvider", "tensorrt_rtx": "NvTensorRTRTXExecutionProvider"}
# Protobuf takes no message of 2 GB or more.
MOST_BYTES = 2**31 - 2**20
_DOMAIN = "com.microsoft"


def wrapped(engine: bytes, source: Path, toolchain: Toolchain) -> bytes:
    """The engine that was built from the ONNX file `source`, with that file's inputs and outputs."""
    graph = onnx.load(source, load_external_data=False).graph
    inputs, outputs = _inputs(graph), list(graph.output)
    node = helper.make_node(
        "EPContext",
        [value.name for value in inputs],
        [value.name for value in outputs],
        name="engine",
        domain=_DOMAIN,
        main_context=1,
        embed_mode=1,
        ep_cache_context=engine,
        source=PROVIDERS[toolchain.compiler],
        partition_name="engine",
        hardware_architecture=(toolchain.gpu_arch or "").removeprefix("SM"),
        ep_sdk_version=toolchain.version,
        onnx_model_filename=source.name,
    )
    model = helper.make_model(
        helper.make_graph([node], graph.name or "engine", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(_DOMAIN, 1)],
        ir_version=9,
    )
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _inputs(graph: onnx.GraphProto) -> Sequence[onnx.ValueInfoProto]:
    """Older exporters list the weights among the inputs."""
    weights = {weight.name for weight in graph.initializer}
    return [value for value in graph.input if value.name not in weights]

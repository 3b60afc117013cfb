"""What every conversion starts from: core operators, constants folded, shapes inferred, nodes named."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import ModelProto

from model_store.errors import Permanent
from model_store.quantize.lower import lower


class NotOnnx(Permanent):
    """The bytes are not an ONNX model."""


def prepared(source: bytes) -> ModelProto:
    """Lowered, optimised at onnxruntime's basic level (folds constants, fuses MatMul+Add into Gemm) and with
    inferred shapes: a tensor of unknown type would silently stay unquantized.

    Raises `Permanent` (NotOnnx) for bytes that do not parse.
    """
    try:
        model = lower(onnx.load_model_from_string(source))
    except Exception as error:  # protobuf's DecodeError and onnx's ValidationError share no base
        raise NotOnnx(f"not an ONNX model: {error}", remedy="log the model to MLflow again") from error
    return onnx.shape_inference.infer_shapes(_basic(_named(model)))


def _basic(model: ModelProto) -> ModelProto:
    """As onnxruntime.quantization.quant_pre_process does: basic optimizations, constants not shared."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="slipway-prepare-") as folder:
        options.optimized_model_filepath = str(Path(folder) / "basic.onnx")
        content = model.SerializeToString()
        try:
            ort.InferenceSession(
                content, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantSharing"]
            )
        except Exception as error:
            raise NotOnnx(f"onnxruntime refuses the model: {error}", remedy="check the ONNX file") from error
        return onnx.load(options.optimized_model_filepath)


def _named(model: ModelProto) -> ModelProto:
    """Every node gets a name of its own: exclusion lists speak of nodes by name."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)
    return model

"""What every conversion starts from: core operators, folded constants, shapes, names; and its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto

from model_store.arrays import Rows, count_rows
from model_store.errors import Permanent, first_line
from model_store.explained import explain
from model_store.quantize.lower import lower_in_place

IR_WITH_PLAIN_CONSTANTS = 4


class NotOnnx(Permanent):
    """The bytes are not an ONNX model."""


def prepared(source: Path, folder: Path) -> ModelProto:
    """The model of a file, lowered, optimised at onnxruntime's basic level (folds constants, fuses MatMul+Add
    into Gemm) and with inferred shapes: a tensor of unknown type would silently stay unquantized. Between the
    steps it lies in `folder`: each library has copies of its own, and a large model is not in memory twice.

    Raises `Permanent` (NotOnnx) for bytes that do not parse.
    """
    try:
        _lower(source, folder / "lowered.onnx")
    except Exception as error:  # protobuf's DecodeError and onnx's ValidationError share no base
        why = explain(error, otherwise="log the model to MLflow again")
        raise NotOnnx(f"not an ONNX model: {why.problem}", remedy=why.remedy) from error
    _basic(folder / "lowered.onnx", folder / "basic.onnx")
    onnx.shape_inference.infer_shapes_path(str(folder / "basic.onnx"), str(folder / "inferred.onnx"))
    return onnx.load(folder / "inferred.onnx")


def _lower(source: Path, target: Path) -> None:
    model = onnx.load_model_from_string(source.read_bytes())
    _without_fed_constants(model)
    lower_in_place(model)
    onnx.save(_named(model), target)


def raised(model: ModelProto, opset: int) -> ModelProto:
    """The same model in this opset of ONNX or later. Raises `Permanent` (NotOnnx) when onnx cannot."""
    has = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), opset)
    if has >= opset:
        return model
    try:
        return onnx.version_converter.convert_version(model, opset)
    except Exception as error:  # the converter's assertions are RuntimeErrors, others ValueErrors
        raise NotOnnx(
            f"the model has opset {has}, {opset} is needed, and onnx cannot raise it: {first_line(error)}",
            remedy=f"export it again with an opset of at least {opset}",
        ) from error


def _basic(source: Path, target: Path) -> None:
    """As onnxruntime.quantization.quant_pre_process does: basic optimizations, constants not shared."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    options.optimized_model_filepath = str(target)
    try:
        ort.InferenceSession(
            str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantSharing"]
        )
    except Exception as error:
        why = explain(error, otherwise="check the ONNX file")
        raise NotOnnx(f"onnxruntime refuses the model: {why.problem}", remedy=why.remedy) from error


def _without_fed_constants(model: ModelProto) -> None:
    """Weights among the inputs (IR 3 wanted them there) as plain constants: nobody feeds them."""
    constants = {tensor.name for tensor in model.graph.initializer}
    fed = [value for value in model.graph.input if value.name not in constants]
    if len(fed) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(fed)
        model.ir_version = max(model.ir_version, IR_WITH_PLAIN_CONSTANTS)


def _named(model: ModelProto) -> ModelProto:
    """Every node gets a name of its own: exclusion lists speak of nodes by name."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)
    return model


CALIBRATION_BATCH = 32


def spread(rows: Rows, limit: int, batch: int = CALIBRATION_BATCH) -> dict[str, np.ndarray[Any, Any]]:
    """At most `limit` rows in whole batches, evenly spaced: in sorted files the first are unlike the rest."""
    count = count_rows(rows)
    wanted = min(limit, count)
    if wanted > batch:  # onnxruntime's histograms take batches of one size only
        wanted -= wanted % batch
    chosen = np.linspace(0, count - 1, wanted).round().astype(np.int64)
    return {name: array[chosen] for name, array in rows.items()}


def filled(rows: Rows, size: int) -> dict[str, np.ndarray[Any, Any]]:
    """The rows, and the last again until they are whole batches of this size."""
    count = count_rows(rows)
    chosen = np.minimum(np.arange(-(-count // size) * size), count - 1)
    return {name: array[chosen] for name, array in rows.items()}

"""fp16 weights and arithmetic behind fp32 inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from model_store.arrays import Rows
from model_store.inference import batches, fixed_batch, open_session
from model_store.quantize.prepare import CALIBRATION_BATCH, filled, spread

# Half of fp16's largest value: rows unlike the calibration rows need room above what was seen.
LARGEST = float(np.finfo(np.float16).max) / 2

PROBE_ROWS = 256


def convert(model: ModelProto, calibration: Rows) -> tuple[bytes, dict[str, Any]]:
    """fp16 bytes, and which nodes stayed fp32 because their values exceed fp16 on the calibration rows.

    Conversion by onnxruntime.transformers.float16, which needs the type of every tensor: those that shape
    inference left open (it knows few operators of ai.onnx.ml) are taken from onnxruntime. Raw features
    (amounts, identifiers) are often beyond 65504, which would turn them into infinity before the model's own
    scaling. The model is used up: a large one is not copied.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    _make_tensors_of_constants(model.graph)
    largest = _largest(model, calibration)
    kept = _beyond_half(model, largest)
    _type_the_rest(model, largest)
    converted = convert_float_to_float16(
        model,
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=list(DEFAULT_OP_BLOCK_LIST),
        node_block_list=kept,
    )
    _drop_repeated_casts(converted.graph)
    _skip_round_trips(converted)
    OnnxModel.graph_topological_sort(converted.graph, is_deterministic=True)
    onnx.checker.check_model(converted)
    return converted.SerializeToString(deterministic=True), {"kept_fp32": kept}


def _make_tensors_of_constants(graph: GraphProto) -> None:
    """Constants may be attributes of their own kinds (`value_float`), which the converter leaves in fp32."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _make_tensors_of_constants(attribute.g)
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                value = np.array(helper.get_attribute_value(attribute), np.float32)
                attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))


def _beyond_half(model: ModelProto, largest: dict[str, float]) -> list[str]:
    """Names of nodes that read or write a float tensor too large for fp16."""
    return [
        node.name
        for node in model.graph.node
        if any(largest.get(name, 0.0) > LARGEST for name in (*node.input, *node.output))
    ]


def _largest(model: ModelProto, calibration: Rows) -> dict[str, float]:
    """Largest absolute value of each float tensor of the graph, scalars too, over the calibration rows."""
    session = _probe(model)
    floats = [value.name for value in session.get_outputs() if value.type == "tensor(float)"]
    largest: dict[str, float] = {}
    # Batch by batch: every activation of every row at once would not fit into memory.
    size = fixed_batch(session) or CALIBRATION_BATCH
    for batch in batches(filled(spread(calibration, PROBE_ROWS), size), size):
        answers = zip(floats, session.run(floats, batch), strict=True)
        for name, values in (*batch.items(), *answers):
            if values.dtype.kind == "f":
                largest[name] = max(largest.get(name, 0.0), _absolute_maximum(values))
    return largest


def _probe(model: ModelProto) -> ort.InferenceSession:
    """A session that answers every tensor of the graph. onnxruntime infers the types itself."""
    known = {output.name for output in model.graph.output}
    inner = [name for node in model.graph.node for name in node.output if name and name not in known]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    try:
        return open_session(model.SerializeToString())
    finally:
        del model.graph.output[len(known) :]


def _type_the_rest(model: ModelProto, floats: Iterable[str]) -> None:
    known = {value.name for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    for name in floats:
        if name not in known:
            model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def _absolute_maximum(values: np.ndarray[Any, Any]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.abs(finite).max()) if finite.size else 0.0


def _drop_repeated_casts(graph: GraphProto) -> None:
    """The converter adds the same cast once for each node in fp32 that reads a tensor, under one name."""
    made: set[str] = set()
    kept = []
    for node in graph.node:
        if node.op_type == "Cast" and node.output[0] in made:
            continue
        made.update(node.output)
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _skip_round_trips(model: ModelProto) -> None:
    """Let nodes kept in fp32 read the fp32 tensor itself, not its copy that went through fp16.

    The converter casts graph inputs to fp16 first and back for such nodes, which is where infinity comes in.
    """
    narrowed = {node.output[0]: node.input[0] for node in model.graph.node if _is_inserted_cast(node)}
    for node in model.graph.node:
        if _casts_to(node, TensorProto.FLOAT) and node.input[0] in narrowed:
            node.op_type, node.input[0] = "Identity", narrowed[node.input[0]]
            del node.attribute[:]
    _drop_dead_casts(model)


def _drop_dead_casts(model: ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    alive = [node for node in model.graph.node if node.op_type != "Cast" or node.output[0] in used]
    del model.graph.node[:]
    model.graph.node.extend(alive)


def _is_inserted_cast(node: NodeProto) -> bool:
    """Whether the converter (not the model) put this fp32 -> fp16 cast here, by the names it gives them."""
    named = node.name.startswith("graph_input_cast") or node.name.endswith("_cast_to_fp16_node")
    return named and _casts_to(node, TensorProto.FLOAT16)


def _casts_to(node: NodeProto, type_: int) -> bool:
    return node.op_type == "Cast" and any(
        attribute.name == "to" and helper.get_attribute_value(attribute) == type_
        for attribute in node.attribute
    )

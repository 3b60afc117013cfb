"""Rewrites `ai.onnx.ml` operators as core ONNX, so that shapes are inferred and TensorRT can parse.

Converters for scikit-learn emit `Scaler` and `ArrayFeatureExtractor`. Shape inference stops at the first,
which leaves every tensor after it unquantized, and TensorRT knows neither. Other `ai.onnx.ml` operators
(trees, SVMs, linear classifiers) are left alone: nothing here makes them faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

ML = "ai.onnx.ml"


def lower(model: ModelProto) -> ModelProto:
    """An equal model. Operators outside `LOWERED`, or with operands not known here, stay as they are."""
    lowered = ModelProto()
    lowered.CopyFrom(model)
    lower_in_place(lowered)
    return lowered


def lower_in_place(model: ModelProto) -> None:
    """As `lower`, without a copy of a large model's weights."""
    if ML not in set(_domains(model)):
        return
    nodes = [new for node in model.graph.node for new in _lower_node(node, model.graph)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _drop_unused(model)


def _lower_node(node: NodeProto, graph: GraphProto) -> Iterable[NodeProto]:
    if node.domain == ML and (rewrite := LOWERED.get(node.op_type)):
        return rewrite(node, graph)
    return [node]


def _scaler(node: NodeProto, graph: GraphProto) -> list[NodeProto]:
    """`(x - offset) * scale` (ONNX operators reference, ai.onnx.ml Scaler)."""
    if _input_type(graph, node.input[0]) not in (None, TensorProto.FLOAT):
        return [node]
    attributes = {attribute.name: attribute.floats for attribute in node.attribute}
    offset = _constant(graph, f"{node.name}/offset", np.array(attributes["offset"], np.float32))
    scale = _constant(graph, f"{node.name}/scale", np.array(attributes["scale"], np.float32))
    centred = f"{node.name}/centred"
    return [
        helper.make_node("Sub", [node.input[0], offset], [centred], name=f"{node.name}/Sub"),
        helper.make_node("Mul", [centred, scale], list(node.output), name=f"{node.name}/Mul"),
    ]


def _array_feature_extractor(node: NodeProto, graph: GraphProto) -> list[NodeProto]:
    """Selects columns of a constant table; the result is [rows, indices], also for a table of one row."""
    table = next((tensor for tensor in graph.initializer if tensor.name == node.input[0]), None)
    if table is None or len(table.dims) > 2:
        return [node]
    values = numpy_helper.to_array(table)
    rows = _constant(graph, f"{node.name}/table", values.reshape(-1, values.shape[-1]))
    flat = _constant(graph, f"{node.name}/flat", np.array([-1], np.int64))
    indices = f"{node.name}/indices"
    return [
        helper.make_node("Reshape", [node.input[1], flat], [indices], name=f"{node.name}/Reshape"),
        helper.make_node("Gather", [rows, indices], list(node.output), axis=1, name=f"{node.name}/Gather"),
    ]


LOWERED: dict[str, Callable[[NodeProto, GraphProto], list[NodeProto]]] = {
    "ArrayFeatureExtractor": _array_feature_extractor,
    "Scaler": _scaler,
}


def _constant(graph: GraphProto, name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
    graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def _input_type(graph: GraphProto, name: str) -> int | None:
    return next((value.type.tensor_type.elem_type for value in graph.input if value.name == name), None)


def _names_used(graph: GraphProto) -> Iterable[str]:
    yield from (output.name for output in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _names_used(inner)


def _domains(model: ModelProto) -> Iterable[str]:
    """Of every node, also in branches, loops and the model's own functions."""
    yield from (domain for function in model.functions for domain in _domains_of(function.node))
    yield from _domains_of(model.graph.node)


def _domains_of(nodes: Iterable[NodeProto]) -> Iterable[str]:
    for node in nodes:
        yield node.domain
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _domains_of(inner.node)


def _drop_unused(model: ModelProto) -> None:
    used = set(_names_used(model.graph))
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    is_ml = ML in set(_domains(model))
    opsets = [opset for opset in model.opset_import if opset.domain != ML or is_ml]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    onnx.checker.check_model(model)

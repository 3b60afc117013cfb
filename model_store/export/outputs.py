"""The outputs of an ONNX model, so that each answers row by row, in the type and shape that is declared."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_store.export.base import NotExportable
from model_store.types import TensorSpec

Array = np.ndarray[Any, Any]
Answers = Mapping[str, Array]

# Of ai.onnx.ml: their numbers are float32 by the operators' definition.
_ANSWER_FLOAT32 = {
    "TreeEnsembleClassifier", "TreeEnsembleRegressor", "LinearClassifier", "LinearRegressor",
    "SVMClassifier", "SVMRegressor", "Normalizer", "Scaler",
}  # fmt: skip
_KEEP_THE_TYPE = {"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"}


def constant_outputs(model: onnx.ModelProto) -> list[str]:
    """Outputs that no input reaches: a version number, say. They say nothing of any row."""
    makers = {name: node for node in model.graph.node for name in node.output if name}
    fixed = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name for value in model.graph.input} - fixed
    return [output.name for output in model.graph.output if not _reaches(output.name, makers, inputs)]


def without_outputs(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """The same model with fewer outputs. Raises `Permanent` when none is left."""
    kept = [output for output in model.graph.output if output.name not in names]
    if not kept:
        raise NotExportable(
            f"no output of the model answers its rows: {', '.join(sorted(names))}",
            remedy="export outputs that are computed from the input, with the rows as first dimension",
        )
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    changed.graph.output.extend(kept)
    return changed


def _reaches(name: str, makers: Mapping[str, onnx.NodeProto], inputs: Collection[str]) -> bool:
    waiting, seen = [name], set()
    while waiting:
        one = waiting.pop()
        if one in inputs:
            return True
        if one in makers and one not in seen:
            waiting += _taken(makers[one])
        seen.add(one)
    return False


def _taken(node: onnx.NodeProto) -> Iterator[str]:
    """The node's inputs, and all that its branches and loop bodies may take from outside."""
    yield from node.input
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
            for inner in graph.node:
                yield from _taken(inner)
            yield from (output.name for output in graph.output)


def rows_first(model: onnx.ModelProto, class_counts: Collection[int]) -> onnx.ModelProto:
    """skl2onnx answers several labels as [labels, rows, classes], or as a sequence of [rows, classes]: the
    same as one tensor [rows, labels, classes]; where every label is yes or no, [rows, labels] of yes.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for place, output in enumerate(model.graph.output):
        if (turn := _turned(output, output.name + "_by_label")) is not None:
            _append(changed, place, turn, len(class_counts), set(class_counts))
    return changed


def _turned(output: onnx.ValueInfoProto, made_by: str) -> onnx.NodeProto | None:
    """The node that makes [rows, labels, classes] of what `made_by` holds; None where rows come first."""
    if output.type.HasField("sequence_type"):
        return helper.make_node("ConcatFromSequence", [made_by], [output.name], axis=1, new_axis=1)
    shape = [dim.dim_value for dim in output.type.tensor_type.shape.dim]
    if len(shape) == 3 and shape[0] > 0 and shape[1] == 0:
        return helper.make_node("Transpose", [made_by], [output.name], perm=[1, 0, 2])
    return None


def _append(model: onnx.ModelProto, place: int, turn: onnx.NodeProto, labels: int, counts: set[int]) -> None:
    output = model.graph.output[place]
    name, element = output.name, _element_type(output)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for which, used in enumerate(names):
                names[which] = turn.input[0] if used == name else used
    if counts == {2}:
        turn.output[0] = f"{name}_of_both"
        model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), f"{name}_yes"))
        yes = helper.make_node("Gather", [turn.output[0], f"{name}_yes"], [name], axis=2)
        model.graph.node.extend([turn, yes])
        shape: list[int | str | None] = [None, labels]
    else:
        model.graph.node.append(turn)
        shape = [None, labels, counts.pop() if len(counts) == 1 else None]
    output.CopyFrom(helper.make_tensor_value_info(name, element, shape))


def _element_type(output: onnx.ValueInfoProto) -> int:
    kind = output.type.sequence_type.elem_type if output.type.HasField("sequence_type") else output.type
    return int(kind.tensor_type.elem_type)


def with_computed_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """The outputs declared in the type that their operators give: skl2onnx declares float64 of a tree on
    float64 inputs, which answers float32, and onnxruntime refuses the lie.
    """
    makers = {name: node for node in model.graph.node for name in node.output if name}
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for output in changed.graph.output:
        if output.type.tensor_type.elem_type == TensorProto.DOUBLE and _is_single(output.name, makers):
            output.type.tensor_type.elem_type = TensorProto.FLOAT
    return changed


def _is_single(name: str, makers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether `name` comes from an operator whose numbers are float32 whatever its input is."""
    node = makers.get(name)
    while node is not None and node.op_type in _KEEP_THE_TYPE:
        node = makers.get(node.input[0])
    return node is not None and node.domain == "ai.onnx.ml" and node.op_type in _ANSWER_FLOAT32


def as_answered(specs: Collection[TensorSpec], answers: Answers) -> tuple[TensorSpec, ...]:
    """The declared outputs in the shapes that were really answered: `answers` by name, [N, ...].

    What is declared free stays free; a size or a rank that is not so is corrected.
    """
    return tuple(TensorSpec(spec.name, spec.datatype, _shape(spec, answers[spec.name])) for spec in specs)


def _shape(spec: TensorSpec, array: Array) -> tuple[int, ...]:
    if len(spec.shape) != array.ndim:
        return (-1, *array.shape[1:])
    sizes = zip(spec.shape[1:], array.shape[1:], strict=True)
    return (-1, *(-1 if said == -1 else answered for said, answered in sizes))

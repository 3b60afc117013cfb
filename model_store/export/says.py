"""What a model says of itself: read from the estimator or from the ONNX graph, and only what is certain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import onnx

Kind = Literal["classifier", "regressor", "outlier"]
Role = Literal["label", "scores", "value", "decision_function"]
Class = str | int | float | bool

# They hand on the values of their first input in another shape, type or scale, and in the same order.
_PASSED_ON = {"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Normalizer"}
_CLASSIFIERS = {"LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"}
_CLASS_LISTS = ("classlabels_int64s", "classlabels_ints", "classlabels_strings")
_MAKE_PROBABILITIES = (b"LOGISTIC", b"SOFTMAX", b"SOFTMAX_ZERO")


class Says(TypedDict):
    """JSON. What is not certain is None or left out.

    `kind`: the estimator's own word. `classes`: in the order of the score columns. `outputs`: by ONNX output
    name, what it is. `probabilities`: by output name, whether these scores are probabilities.
    `multilabel`: a row may have several labels at once.
    """

    kind: Kind | None
    classes: list[Class] | None
    outputs: dict[str, Role | None]
    probabilities: dict[str, bool]
    multilabel: bool


def nothing_said() -> Says:
    """Of a model that keeps silent."""
    return {"kind": None, "classes": None, "outputs": {}, "probabilities": {}, "multilabel": False}


def said_by_graph(model: onnx.ModelProto) -> Says:
    """From the operators that make the outputs, and from `classes` (a JSON list) in the metadata.

    An ai.onnx.ml classifier names its classes and tells its label from its scores. The place of the largest
    of several numbers is a label. Softmax and Sigmoid make probabilities; of a Sigmoid it is not certain
    that these are scores.
    """
    graph = _Graph.of(model)
    found = {output.name: graph.read(output.name) for output in model.graph.output}
    lists = [one.classes for one in found.values() if one.classes]
    agreed = lists[0] if lists and all(classes == lists[0] for classes in lists) else None
    return {
        "kind": "classifier" if lists else None,
        "classes": _metadata_classes(model) or agreed,
        "outputs": {name: one.role for name, one in found.items()},
        "probabilities": {
            name: one.are_probabilities for name, one in found.items() if one.are_probabilities is not None
        },
        "multilabel": False,
    }


@dataclass(frozen=True, slots=True)
class _Output:
    role: Role | None = None
    are_probabilities: bool | None = None
    classes: list[Class] | None = None


@dataclass(frozen=True, slots=True)
class _Graph:
    """`makers`: by value name, the node that computes it. `constants`: initializers by name."""

    makers: Mapping[str, onnx.NodeProto]
    constants: Mapping[str, onnx.TensorProto]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Graph:
        makers = {name: node for node in model.graph.node for name in node.output if name}
        return cls(makers, {tensor.name: tensor for tensor in model.graph.initializer})

    def read(self, name: str) -> _Output:
        node, made = self._origin(name)
        match node.op_type if node else None:
            case "Softmax":
                return _Output("scores", are_probabilities=True)
            case "Sigmoid":
                return _Output(None, are_probabilities=True)
            case "ArgMax" | "ArgMin":
                return _Output("label")
            case "ArrayFeatureExtractor" if node and node.input[0] in self.constants:
                return self._looked_up(node)
            case operator if node and operator in _CLASSIFIERS:
                return _of_classifier(node, made)
        return _Output()

    def _origin(self, name: str) -> tuple[onnx.NodeProto | None, str]:
        """The node that really computes `name`, and its name there."""
        node = self.makers.get(name)
        while node is not None and node.op_type in _PASSED_ON:
            name = node.input[0]
            node = self.makers.get(name)
        return node, name

    def _looked_up(self, node: onnx.NodeProto) -> _Output:
        """A list of classes, and the place of the largest score in it."""
        place, _ = self._origin(node.input[1])
        if place is None or place.op_type not in ("ArgMax", "TopK"):
            return _Output()
        values = onnx.numpy_helper.to_array(self.constants[node.input[0]]).ravel().tolist()
        return _Output("label", None, [_text(value) for value in values])


def _of_classifier(node: onnx.NodeProto, made: str) -> _Output:
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    classes: list[Any] = next((attributes[name] for name in _CLASS_LISTS if attributes.get(name)), [])
    listed = [_text(value) for value in classes] or None
    if made == node.output[0]:
        return _Output("label", None, listed)
    return _Output("scores", attributes.get("post_transform") in _MAKE_PROBABILITIES or None, listed)


def _text(value: Any) -> Class:
    said: Class = value.decode(errors="replace") if isinstance(value, bytes) else value
    return said


def _metadata_classes(model: onnx.ModelProto) -> list[Class] | None:
    written = next((entry.value for entry in model.metadata_props if entry.key == "classes"), "")
    try:
        classes = json.loads(written)
    except ValueError:
        return None
    is_list = isinstance(classes, list) and all(isinstance(one, str | int | float | bool) for one in classes)
    return classes if is_list and classes else None

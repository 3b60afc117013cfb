"""What a graph says of itself: its classes, what its outputs are, and nothing that is not certain."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_store.export.says import said_by_graph

X = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)


def converted(model: Any) -> onnx.ModelProto:
    from skl2onnx import to_onnx

    return to_onnx(model, X[:1], options={"zipmap": False})


def graph(*nodes: onnx.NodeProto, outputs: tuple[str, ...]) -> onnx.ModelProto:
    weights = numpy_helper.from_array(np.ones((3, 2), np.float32), "w")
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in outputs]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])]
    return helper.make_model(helper.make_graph(list(nodes), "g", given, made, [weights]))


def test_the_classes_of_a_converted_tree_are_those_it_was_trained_with() -> None:
    from sklearn.tree import DecisionTreeClassifier

    says = said_by_graph(converted(DecisionTreeClassifier().fit(X, np.where(X[:, 0] > 0, "good", "bad"))))

    assert says["classes"] == ["bad", "good"]
    assert says["outputs"] == {"label": "label", "probabilities": "scores"}
    assert says["kind"] == "classifier"


def test_a_converted_regression_names_its_classes_in_order_and_its_probabilities() -> None:
    from sklearn.linear_model import LogisticRegression

    says = said_by_graph(converted(LogisticRegression().fit(X, np.digitize(X[:, 0], [-0.5, 0.5]) + 1)))

    assert says["classes"] == [1, 2, 3]
    assert says["probabilities"] == {"probabilities": True}


def test_classes_that_are_looked_up_by_the_largest_score_are_found() -> None:
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((4,), tol=1e9).fit(X, np.digitize(X[:, 0], [-0.5, 0.5]) + 4)
    says = said_by_graph(converted(model))

    assert says["classes"] == [4, 5, 6]
    assert says["outputs"]["label"] == "label"


def test_softmax_makes_scores_that_are_probabilities_and_plain_products_say_nothing() -> None:
    says = said_by_graph(
        graph(
            helper.make_node("MatMul", ["x", "w"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["soft"]),
            helper.make_node("Identity", ["soft"], ["p"]),
            outputs=("p", "logits"),
        )
    )

    assert says["outputs"] == {"p": "scores", "logits": None}
    assert says["probabilities"] == {"p": True}
    assert says["classes"] is None
    assert says["kind"] is None


def test_classes_in_the_metadata_count_and_what_is_no_list_of_them_does_not() -> None:
    model = graph(helper.make_node("MatMul", ["x", "w"], ["logits"]), outputs=("logits",))
    helper.set_model_props(model, {"classes": '["cat", "dog"]'})
    assert said_by_graph(model)["classes"] == ["cat", "dog"]
    for written in ("cat, dog", '{"0": "cat"}', "[]", "[[1], [2]]"):
        helper.set_model_props(model, {"classes": written})
        assert said_by_graph(model)["classes"] is None


def test_two_classifiers_that_name_other_classes_leave_it_open() -> None:
    from sklearn.tree import DecisionTreeClassifier

    first, second = (
        converted(DecisionTreeClassifier(max_depth=2).fit(X, labels))
        for labels in (np.where(X[:, 0] > 0, "good", "bad"), np.where(X[:, 1] > 0, "young", "old"))
    )
    both = onnx.compose.merge_models(
        onnx.compose.add_prefix(first, "a_"), onnx.compose.add_prefix(second, "b_"), io_map=[]
    )

    assert said_by_graph(both)["classes"] is None
    assert said_by_graph(both)["outputs"]["b_label"] == "label"

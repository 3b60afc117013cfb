"""ONNX graphs as other frameworks write them: unknown classes, odd outputs, old operator sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.zoo.world import ROWS, Array, Kind, Made, asked_onnx, saved_onnx

WIDTH = 8
COLUMNS = [f"c{place}" for place in range(WIDTH)]
GATES = {"accuracy": {"max_drop": 0.02}, "auc": {"max_drop": 0.02}}
NODE = helper.make_node


def weights(scale: float = 1.5) -> Array:
    """[8, 2]: the first two inputs speak for class 1."""
    result = np.zeros((WIDTH, 2), np.float32)
    result[:2, 1], result[:2, 0] = scale, -scale
    return result


def rows(count: int, seed: int) -> pd.DataFrame:
    """Eight numbers and `y`, 0 or 1."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, WIDTH)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] + 0.5 * rng.normal(size=count) > 0).astype(int)
    return pd.DataFrame(x, columns=COLUMNS).assign(y=y)


def graph(
    nodes: Sequence[Any],
    constants: dict[str, Any],
    outputs: dict[str, list[Any]],
    *,
    opset: int = 18,
    ir: int = 9,
    types: dict[str, int] | None = None,
) -> ModelProto:
    """One input `x` [N, 8]. `outputs`: their shapes by name, float unless `types` says otherwise."""
    info = helper.make_tensor_value_info
    made = helper.make_graph(
        list(nodes),
        "g",
        [info("x", TensorProto.FLOAT, ["N", WIDTH])],
        [info(name, (types or {}).get(name, TensorProto.FLOAT), shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def judged(
    folder: Path,
    model: ModelProto,
    read: Callable[[dict[str, Array]], tuple[Array, Array]] | None = None,
    **spec: Any,
) -> Made:
    """`read`: decisions and scores of class 1, from the answers of onnxruntime itself."""
    from sklearn.metrics import accuracy_score, roc_auc_score

    evaluation, calibration = rows(ROWS, 2), rows(200, 3)
    saved, numbers = saved_onnx(folder / "model", model), {}
    if read is not None:
        decided, surer = read(asked_onnx(model, {"x": evaluation[COLUMNS].to_numpy()}))
        numbers = {
            "accuracy": float(accuracy_score(evaluation.y, decided)),
            "auc": float(roc_auc_score(evaluation.y, surer)),
        }
    return Made(saved, "onnx", evaluation, calibration, "y", numbers, {"gates": GATES, **spec})


def of_logits(answers: dict[str, Array]) -> tuple[Array, Array]:
    """Two columns: their difference ranks."""
    logits = answers["logits"].astype(np.float64)
    return logits.argmax(axis=1), logits[:, 1] - logits[:, 0]


def two_logits(folder: Path) -> Made:
    """Both columns share a term of its own that neither decides nor ranks."""
    shared = np.zeros((WIDTH, 2), np.float32)
    shared[3] = 9.0
    nodes = [NODE("MatMul", ["x", "W"], ["logits"])]
    return judged(folder, graph(nodes, {"W": weights() + shared}, {"logits": ["N", 2]}), of_logits)


def one_logit(folder: Path, **spec: Any) -> Made:
    """Above which number it says yes, nobody said."""
    nodes = [NODE("MatMul", ["x", "W"], ["score"])]
    model = graph(nodes, {"W": weights()[:, 1:] * 2}, {"score": ["N", 1]})

    def read(answers: dict[str, Array]) -> tuple[Array, Array]:
        return answers["score"][:, 0] > 0, answers["score"][:, 0]

    return judged(folder, model, read if spec else None, **spec)


def beside_an_embedding(folder: Path) -> Made:
    """Two float outputs of two columns, of which only one is probabilities."""
    nodes = [
        NODE("MatMul", ["x", "E"], ["embedding"]),
        NODE("MatMul", ["x", "W"], ["l"]),
        NODE("Softmax", ["l"], ["probabilities"], axis=1),
    ]
    e = np.random.default_rng(0).normal(size=(WIDTH, 5)).astype(np.float32)
    outputs = {"embedding": ["N", 5], "probabilities": ["N", 2]}
    model = graph(nodes, {"E": e, "W": weights()}, outputs)
    return judged(
        folder,
        model,
        lambda a: (a["probabilities"].argmax(axis=1), a["probabilities"][:, 1]),
        outputs={"scores": "probabilities"},
    )


def old_operators(folder: Path, opset: int) -> Made:
    """Int8 wants operator set 13 and above."""
    nodes = [NODE("MatMul", ["x", "W"], ["logits"])]
    model = graph(nodes, {"W": weights()}, {"logits": ["N", 2]}, opset=opset, ir=6)
    return judged(folder, model, of_logits)


def weights_in_three_dimensions(folder: Path) -> Made:
    """[1, 8, 2]."""
    nodes = [
        NODE("Unsqueeze", ["x", "axis"], ["wide"]),
        NODE("MatMul", ["wide", "W"], ["m"]),
        NODE("Squeeze", ["m", "axis"], ["logits"]),
    ]
    model = graph(nodes, {"W": weights()[None], "axis": np.array([1], np.int64)}, {"logits": ["N", 2]})
    return judged(folder, model, of_logits)


def beyond_half_precision(folder: Path) -> Made:
    """A scalar above 65504, and its inverse."""
    nodes = [
        NODE("Mul", ["x", "k"], ["large"]),
        NODE("Mul", ["large", "one_over_k"], ["same"]),
        NODE("MatMul", ["same", "W"], ["logits"]),
    ]
    k = np.float32(3e5)
    model = graph(nodes, {"W": weights(), "k": k, "one_over_k": 1 / k}, {"logits": ["N", 2]})
    return judged(folder, model, of_logits)


def of_float64_inside(folder: Path) -> Made:
    """Computed in double, answered in single precision."""
    nodes = [
        NODE("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
        NODE("MatMul", ["d", "W"], ["ld"]),
        NODE("Cast", ["ld"], ["logits"], to=TensorProto.FLOAT),
    ]
    return judged(folder, graph(nodes, {"W": weights().astype(np.float64)}, {"logits": ["N", 2]}), of_logits)


def batch_norm_in_training(folder: Path) -> Made:
    """Scaled by the mean of whoever else is in the batch."""
    nodes = [
        NODE("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        NODE("Sub", ["x", "mean"], ["centred"]),
        NODE("MatMul", ["centred", "W"], ["logits"]),
    ]
    model = graph(nodes, {"W": weights(), "axes": np.array([0], np.int64)}, {"logits": ["N", 2]})
    return judged(folder, model)


def one_answer_for_all(folder: Path) -> Made:
    """[1, 2], whatever the batch."""
    nodes = [
        NODE("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        NODE("MatMul", ["mean", "W"], ["logits"]),
    ]
    model = graph(nodes, {"W": weights(), "axes": np.array([0], np.int64)}, {"logits": ["N", 2]})
    return judged(folder, model)


def not_a_number(folder: Path) -> Made:
    """The logarithm of a negative number, in one row of a hundred."""
    nodes = [
        NODE("Gather", ["x", "fourth"], ["c"], axis=1),
        NODE("Add", ["c", "offset"], ["positive"]),
        NODE("Log", ["positive"], ["log"]),
        NODE("Mul", ["log", "zero"], ["nothing"]),
        NODE("MatMul", ["x", "W"], ["l"]),
        NODE("Add", ["l", "nothing"], ["logits"]),
    ]
    constants = {"W": weights(), "fourth": np.array([3], np.int64), "offset": np.float32(2.3)}
    return judged(folder, graph(nodes, {**constants, "zero": np.float32(0)}, {"logits": ["N", 2]}))


def of_a_later_format(folder: Path) -> Made:
    """IR 99."""
    nodes = [NODE("MatMul", ["x", "W"], ["logits"])]
    return judged(folder, graph(nodes, {"W": weights()}, {"logits": ["N", 2]}, ir=99))


def fraud(folder: Path, *, bias: float, gates: dict[str, Any]) -> Made:
    """2 % are fraud; the champion finds two thirds of it."""
    from sklearn.metrics import recall_score

    def drawn(count: int, seed: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        is_fraud = rng.random(count) < 0.02
        x = rng.normal(size=(count, WIDTH)).astype(np.float32)
        x[is_fraud, 0] += 4
        return pd.DataFrame(x, columns=COLUMNS).assign(y=is_fraud.astype(int))

    def model(at: float) -> ModelProto:
        w = np.zeros((WIDTH, 2), np.float32)
        w[0, 1] = 2
        nodes = [NODE("Gemm", ["x", "W", "b"], ["l"]), NODE("Softmax", ["l"], ["probabilities"], axis=1)]
        b = np.array([0, at], np.float32)
        return graph(nodes, {"W": w, "b": b}, {"probabilities": ["N", 2]})

    evaluation, calibration = drawn(5000, 5), drawn(500, 6)
    said = asked_onnx(model(bias), {"x": evaluation[COLUMNS].to_numpy()})["probabilities"]
    numbers = {"recall": float(recall_score(evaluation.y, said.argmax(axis=1)))} if "recall" in gates else {}
    champion = saved_onnx(folder / "champion", model(-7.0))
    saved = saved_onnx(folder / "model", model(bias))
    return Made(saved, "onnx", evaluation, calibration, "y", numbers, {"gates": gates}, champion)


def ranking(folder: Path) -> Made:
    """Ninety queries of eight rows."""
    from sklearn.metrics import ndcg_score

    def drawn(queries: int, seed: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(queries * 8, WIDTH)).astype(np.float32)
        relevance = np.clip(np.round(x[:, 0] + x[:, 1] + 0.5 * rng.normal(size=len(x))), 0, 4).astype(int)
        return pd.DataFrame(x, columns=COLUMNS).assign(
            y=relevance, query=np.repeat(np.arange(queries) + 1000 * seed, 8)
        )

    evaluation, calibration = drawn(90, 2), drawn(30, 3)
    model = graph([NODE("MatMul", ["x", "W"], ["score"])], {"W": weights()[:, 1:]}, {"score": ["N", 1]})
    score = asked_onnx(model, {"x": evaluation[COLUMNS].to_numpy()})["score"].reshape(-1, 8)
    gains = evaluation.y.to_numpy().reshape(-1, 8)
    counts = gains.sum(axis=1) > 0
    numbers = {"ndcg_5": float(ndcg_score(gains[counts], score[counts], k=5))}
    spec = {"data": {"group": "query"}, "gates": {"ndcg_5": {"max_drop": 0.05}, "ndcg_10": None}}
    return Made(saved_onnx(folder / "model", model), "onnx", evaluation, calibration, "y", numbers, spec)


def labels_by_sigmoid(folder: Path) -> Made:
    """Three probabilities of a row that do not add up to 1."""
    from sklearn.metrics import f1_score

    labels = ["red", "green", "blue"]

    def drawn(count: int, seed: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(count, WIDTH)).astype(np.float32)
        so = (x[:, :3] + 0.4 * rng.normal(size=(count, 3)) > 0.2).astype(int)
        return pd.DataFrame(x, columns=COLUMNS).assign(**dict(zip(labels, so.T, strict=True)))

    nodes = [NODE("Gemm", ["x", "W", "b"], ["l"]), NODE("Sigmoid", ["l"], ["probabilities"])]
    w = np.eye(WIDTH, 3, dtype=np.float32) * 5
    model = graph(nodes, {"W": w, "b": np.full(3, -1, np.float32)}, {"probabilities": ["N", 3]})
    evaluation, calibration = drawn(ROWS, 2), drawn(200, 3)
    said = asked_onnx(model, {"x": evaluation[COLUMNS].to_numpy()})["probabilities"]
    numbers = {"f1_macro": float(f1_score(evaluation[labels], said > 0.5, average="macro"))}
    spec = {"task": "multilabel", "outputs": {"scores": "probabilities", "threshold": 0.5}}
    return Made(saved_onnx(folder / "model", model), "onnx", evaluation, calibration, labels, numbers, spec)


def one_number(folder: Path) -> Made:
    """A regression that says nothing of itself; the label has fractions."""
    from sklearn.metrics import mean_absolute_error

    def drawn(count: int, seed: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(count, WIDTH)).astype(np.float32)
        return pd.DataFrame(x, columns=COLUMNS).assign(y=3 * x[:, 0] + 3 * x[:, 1] + rng.normal(size=count))

    evaluation, calibration = drawn(ROWS, 2), drawn(200, 3)
    model = graph([NODE("MatMul", ["x", "W"], ["price"])], {"W": weights(3)[:, 1:]}, {"price": ["N", 1]})
    said = asked_onnx(model, {"x": evaluation[COLUMNS].to_numpy()})["price"][:, 0]
    numbers = {"mae": float(mean_absolute_error(evaluation.y, said))}
    return Made(saved_onnx(folder / "model", model), "onnx", evaluation, calibration, "y", numbers)


KINDS = [
    Kind("two logits", two_logits, "published"),
    Kind("one logit", one_logit, "refused", "nothing says above which the answer is yes"),
    Kind("one logit, told", partial(one_logit, task="binary", outputs={"scores": "score", "threshold": 0}),
         "published"),
    Kind("probabilities beside an embedding", beside_an_embedding, "published"),
    Kind("operator set 11", partial(old_operators, opset=11), "published"),
    Kind("operator set 12", partial(old_operators, opset=12), "published"),
    Kind("weights in three dimensions", weights_in_three_dimensions, "published"),
    Kind("a scalar beyond half precision", beyond_half_precision, "published"),
    Kind("double precision inside", of_float64_inside, "published"),
    Kind("batch norm in training", batch_norm_in_training, "refused", "whose rows are in the same batch"),
    Kind("one answer for all rows", one_answer_for_all, "refused", r"shape \[1, 2\] for 32 rows"),
    Kind("NaN in one row of a hundred", not_a_number, "refused", "answers NaN or infinity"),
    Kind("a later format", of_a_later_format, "refused", "IR version 99"),
    Kind("fraud that is no longer found, by recall", partial(fraud, bias=-9.5,
         gates={"recall": {"max_drop": 0.1}, "accuracy": None, "auc": None,
                "champion": {"recall": {"max_drop": 0.1}}}), "blocked", "recall against champion"),
    Kind("fraud that is never found, by accuracy", partial(fraud, bias=-60.0,
         gates={**GATES, "champion": {"max_drop": 0.02}}), "refused", "to all 5000 rows"),
    Kind("ranked queries", ranking, "published"),
    Kind("three labels by sigmoid", labels_by_sigmoid, "published"),
    Kind("one number", one_number, "published"),
]  # fmt: skip

"""Models small enough to make on the spot and real enough to lose accuracy: an MLP on the credit data as
scikit-learn exports it, and a CNN on 8x8 digits whose last layer is fitted in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_store.storage.store import Store
from model_store.types import Artifact, Precision, Toolchain
from tests.bundles import model_of

Array = np.ndarray[Any, Any]
Rows = dict[str, Array]


@dataclass(frozen=True)
class Credit:
    """The demo's v2. `home` is laid out as `${SLIPWAY_HOME}`, with evaluation and calibration files."""

    home: Path
    onnx: bytes
    evaluation: Rows
    labels: Array
    slices: dict[str, Array]
    calibration: Rows


@dataclass(frozen=True)
class Digits:
    """`image` [N, 1, 8, 8] to `probabilities` [N, 10]; no label output."""

    onnx: bytes
    evaluation: Rows
    labels: Array
    calibration: Rows


def make_credit(home: Path) -> Credit:
    """Prepare the credit data under `home` and train on it (seconds)."""
    import pandas as pd
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from threadpoolctl import threadpool_limits

    from demo.data import FEATURES, LABEL, prepare
    from demo.models import RECIPES, train

    parts = prepare(home / "data" / "credit_risk")
    # More threads than free cores spin against each other for minutes.
    with threadpool_limits(1):
        pipeline = train(RECIPES[2], parts).pipeline
    model = to_onnx(
        pipeline,
        initial_types=[("input", FloatTensorType([None, len(FEATURES)]))],
        options={"zipmap": False},
        target_opset=17,
    )
    evaluation, calibration = pd.read_parquet(parts.evaluation), pd.read_parquet(parts.calibration)
    return Credit(
        home=home,
        onnx=model.SerializeToString(),
        evaluation={"input": evaluation[list(FEATURES)].to_numpy(np.float32)},
        labels=evaluation[LABEL].to_numpy(np.int64),
        slices={name: evaluation[name].astype(str).to_numpy() for name in ("Home", "Job")},
        calibration={"input": calibration[list(FEATURES)].to_numpy(np.float32)},
    )


def make_digits() -> Digits:
    """Two convolutions with fixed random filters, pooled; the last layer is ridge regression."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    train, rest = slice(0, 1000), slice(1000, None)
    features = _run(_cnn(None), images[train])
    targets = np.eye(10)[labels[train]] * 20 - 10
    wide = np.hstack([features, np.ones((len(features), 1))])
    solved = np.linalg.solve(wide.T @ wide + 0.1 * np.eye(wide.shape[1]), wide.T @ targets)
    return Digits(
        onnx=_cnn(solved.astype(np.float32)).SerializeToString(),
        evaluation={"image": images[rest]},
        labels=labels[rest].astype(np.int64),
        calibration={"image": images[:300]},
    )


def _cnn(head: Array | None) -> onnx.ModelProto:
    """Without a head the output is the features the head is fitted on."""
    rng = np.random.default_rng(3)
    first = rng.normal(size=(12, 1, 3, 3)) / 3
    second = rng.normal(size=(24, 12, 3, 3)) / 10
    weights = [_float("w1", first), _float("w2", second), _float("b1", rng.normal(size=12) / 4)]
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("MaxPool", ["r1"], ["p1"], name="pool1", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("Flatten", ["r2"], ["features"], name="flat"),
    ]
    width = 24 * 16
    output = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", width])
    if head is not None:
        weights += [_float("w3", head[:-1]), _float("b3", head[-1])]
        nodes.append(helper.make_node("Gemm", ["features", "w3", "b3"], ["scores"], name="head"))
        nodes.append(helper.make_node("Softmax", ["scores"], ["probabilities"], name="softmax", axis=1))
        output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])
    return model_of(nodes, [image], [output], weights)


def save_churn(folder: Path) -> None:
    """A classifier as somebody saves it (`model/`), and the rows to judge it by: evaluation and calibration
    as parquet, with the label `bad`.
    """
    import mlflow.sklearn
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.linear_model import LogisticRegression

    features = ["age", "income", "debt"]
    random = np.random.default_rng(7)
    frame = pd.DataFrame(random.normal(size=(1500, 3)), columns=features)
    frame["bad"] = (frame.age + 0.4 * random.normal(size=1500) > 0).astype(int)
    model = LogisticRegression().fit(frame[features], frame.bad)
    signature = infer_signature(frame[features], model.predict(frame[features]))
    mlflow.sklearn.save_model(model, str(folder / "model"), signature=signature, pip_requirements=[])
    frame.iloc[:1000].to_parquet(folder / "evaluation.parquet")
    frame.iloc[1000:].to_parquet(folder / "calibration.parquet")


def keep(store: Store, content: bytes, precision: Precision = "fp32") -> Artifact:
    """An artifact as an export leaves it."""
    toolchain = Toolchain("test", "1")
    return store.put(content, format="onnx", precision=precision, parent_digest=None, toolchain=toolchain)


def _float(name: str, values: Array) -> onnx.TensorProto:
    return numpy_helper.from_array(values.astype(np.float32), name)


def _run(model: onnx.ModelProto, images: Array) -> Array:
    from model_store.inference import answer, open_session

    outputs = answer(open_session(model.SerializeToString()), {"image": images})
    return next(iter(outputs.values())).astype(np.float64)

"""Four versions of the mail model: MiniLM as it is, each with a head of its own, as ONNX files in MLflow.

Run as a process (`python -m demo.service.models 1 2`); it prints one JSON object a line for each version
registered. The graph is written from the weights (`examples/service/minilm.py`), the head is scikit-learn's.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from demo.acts import scenario
from demo.data import Parts
from demo.place import DemoHome
from demo.registry import Version, be_quiet, register, wait_for_registry
from demo.service.mails import CONFIG, LABEL, MODEL, WEIGHTS, model_file, prepare
from examples.service.minilm import Config, Head, Weights, classifier, encoder, read_safetensors

Array = np.ndarray[Any, Any]
BATCH = 64
BY_HAND_ROWS = 64


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which mails the head learns from, and how freely (`freedom`: scikit-learn's C)."""

    mails: int
    freedom: float = 10.0
    is_quantized_by_hand: bool = False


RECIPES = {
    1: Recipe(mails=200),
    2: Recipe(mails=1600),
    3: Recipe(mails=1600, is_quantized_by_hand=True),
    4: Recipe(mails=1500, freedom=8.0),
}


@dataclass(frozen=True, slots=True)
class Mails:
    """The rows of one part: what the model takes, the labels [N], and MiniLM's embeddings [N, 384]."""

    rows: dict[str, Array]
    labels: Array
    embeddings: Array


def rows_of(path: Path) -> tuple[dict[str, Array], Array]:
    """Inputs by name [N, T] and labels [N] of one part."""
    table = pd.read_parquet(path)
    rows = {
        name: np.stack(table[name].to_list()).astype(np.int64) for name in ("input_ids", "attention_mask")
    }
    return rows, table[LABEL].to_numpy(np.int64)


def embedded(path: Path, encoder_onnx: bytes) -> Mails:
    """The part with its embeddings: about 8 ms a mail on one core."""
    rows, labels = rows_of(path)
    return Mails(rows, labels, answers(encoder_onnx, rows, "embedding"))


def answers(model: bytes, rows: dict[str, Array], output: str) -> Array:
    """One output [N, ...] of an ONNX model for all rows."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    starts = range(0, len(next(iter(rows.values()))), BATCH)
    batches = ({name: array[start : start + BATCH] for name, array in rows.items()} for start in starts)
    return np.concatenate([session.run([output], batch)[0] for batch in batches])


def fit_head(recipe: Recipe, train: Mails) -> Head:
    """A logistic regression as a layer with two outputs, whose softmax is its probability."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=recipe.freedom, max_iter=2000)
    fitted.fit(train.embeddings[: recipe.mails], train.labels[: recipe.mails])
    half = np.stack([-fitted.coef_[0], fitted.coef_[0]], axis=1) / 2
    bias = np.array([-fitted.intercept_[0], fitted.intercept_[0]]) / 2
    return Head(half.astype(np.float32), bias.astype(np.float32))


def version_of(
    number: int, story: str, weights: Weights, config: Config, train: Mails, judged: Mails
) -> Version:
    """Train the head, and judge the whole on the evaluation mails."""
    recipe = RECIPES[number]
    head = fit_head(recipe, train)
    model = classifier(weights, config, head).SerializeToString()
    params = {"mails": recipe.mails, "C": recipe.freedom, "quantized by hand": recipe.is_quantized_by_hand}
    if recipe.is_quantized_by_hand:
        model = quantized_by_hand(model, train.rows)
        spam = answers(model, judged.rows, "probabilities")[:, 1]
    else:
        logits = judged.embeddings @ head.weights + head.bias
        spam = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    return Version(number, story, model, scores(spam, judged.labels), params)


def scores(spam: Array, labels: Array) -> dict[str, float]:
    """Accuracy and AUC of how likely each mail [N] is spam."""
    from sklearn.metrics import accuracy_score, roc_auc_score

    return {"accuracy": float(accuracy_score(labels, spam > 0.5)), "auc": float(roc_auc_score(labels, spam))}


def quantized_by_hand(model: bytes, rows: dict[str, Array]) -> bytes:
    """Every operator in signed, symmetric 8 bits, as TensorRT parses them: what a team does that wants a
    small file for all its machines, and what takes five points off this model."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            starts = range(0, BY_HAND_ROWS, 32)
            batches = [{name: array[s : s + 32] for name, array in rows.items()} for s in starts]
            self._left = iter(batches)

        def get_next(self) -> dict[str, Array] | None:
            return next(self._left, None)

    with tempfile.TemporaryDirectory(prefix="slipway-by-hand-") as folder, _only_errors():
        source, target = Path(folder) / "model.onnx", Path(folder) / "quantized.onnx"
        source.write_bytes(model)
        quantize_static(
            source,
            target,
            Reader(),
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )
        return target.read_bytes()


@contextmanager
def _only_errors() -> Iterator[None]:
    """onnxruntime's quantizer advises through the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def main(arguments: list[str] | None = None) -> None:
    """Prepare the mails if need be, make the versions, wait for MLflow, register them in order."""
    parser = argparse.ArgumentParser(prog="python -m demo.service.models", description=__doc__)
    parser.add_argument("versions", nargs="+", type=int, choices=sorted(RECIPES))
    asked = parser.parse_args(arguments)
    stories = {act.version: act.story for act in scenario("service").acts}
    be_quiet()
    home = DemoHome.of()
    parts = Parts.under(home.data / MODEL)
    if not parts.traffic.exists():
        prepare(home.data / MODEL, home.cache)
    weights = read_safetensors(model_file(home.cache, WEIGHTS))
    config = Config.read(model_file(home.cache, CONFIG))
    alone = encoder(weights, config).SerializeToString()
    train, judged = embedded(parts.train, alone), embedded(parts.evaluation, alone)
    wait_for_registry(home)
    for number in asked.versions:
        made = version_of(number, stories[number], weights, config, train, judged)
        register(made, MODEL, tracking_url=home.mlflow_url)
        line = {"version": number, **made.metrics, "size_mb": round(len(made.onnx) / 1e6, 1)}
        print(json.dumps(line), flush=True)  # noqa: T201 - the caller reads it


if __name__ == "__main__":
    main()

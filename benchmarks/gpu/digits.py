"""Small trained models of handwritten digits, as MLflow's folders, and the rows by which they are judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from tests.bundles import mlp


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels float32[rows, 64] in [0, 1] and labels. Every second row, from the first on, is for training."""
    pixels, labels = load_digits(return_X_y=True)
    return (pixels / 16).astype(np.float32), labels


def trained(pixels: np.ndarray, labels: np.ndarray, seed: int) -> onnx.ModelProto:
    """One that saw the training rows, with these labels."""
    learned = MLPClassifier((64, 32), random_state=seed, max_iter=300).fit(pixels[::2], labels[::2])
    model = mlp((64, 64, 32, 10))
    found = {f"w{n}": weight for n, weight in enumerate(learned.coefs_)}
    found |= {f"b{n}": bias for n, bias in enumerate(learned.intercepts_)}
    for weight in model.graph.initializer:
        weight.CopyFrom(onnx.numpy_helper.from_array(found[weight.name].astype(np.float32), weight.name))
    return model


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    """As MLflow lays a model out."""
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    (folder / "MLmodel").write_text("flavors:\n  onnx:\n    data: model.onnx\n")
    return folder


def write_data(work: Path, spec: str) -> Path:
    """The rows that nobody was trained on, and the release spec whose EVALUATION and CALIBRATION they are."""
    pixels, labels = digits()
    table = pd.DataFrame(pixels[1::2], columns=[f"p{n}" for n in range(pixels.shape[1])])
    table["label"] = labels[1::2]
    for role, rows in (("calibration", table[:300]), ("evaluation", table[300:])):
        rows.to_csv(work / f"{role}.csv", index=False)
        spec = spec.replace(role.upper(), str(work / f"{role}.csv"))
    (work / "spec.yaml").write_text(spec)
    return work / "spec.yaml"

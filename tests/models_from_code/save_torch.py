"""Trains and saves torch models in the ways that people log them: `python save_torch.py WHICH FOLDER
REQUIREMENTS`. Runs where torch is, and says what the models answer themselves.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import mlflow.pyfunc
import mlflow.pytorch
import numpy as np
import pandas as pd
import torch
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import Schema, TensorSpec
from sklearn import datasets, metrics
from sklearn.model_selection import train_test_split
from torch import nn

warnings.simplefilter("ignore")
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "true"
torch.manual_seed(0)
torch.set_num_threads(1)


def digits(*, as_pictures=False):
    x, y = datasets.load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    if as_pictures:
        x = x.reshape(-1, 1, 8, 8)
    return train_test_split(x, y, test_size=0.5, random_state=0)


def train(model, x, y, loss=nn.functional.cross_entropy, epochs=30):
    tensors = [torch.from_numpy(np.ascontiguousarray(each)) for each in (x if isinstance(x, tuple) else (x,))]
    right = torch.from_numpy(np.asarray(y))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(right)).split(64):
            optimizer.zero_grad()
            loss(model(*(tensor[rows] for tensor in tensors)), right[rows]).backward()
            optimizer.step()
    return model.eval()


def asked(model, *arrays):
    with torch.no_grad():
        return model(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)).numpy()


class Perceptron(nn.Module):
    """With what behaves otherwise while it is trained."""

    def __init__(self, width=64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)
        )

    def forward(self, pixels):
        return torch.softmax(self.layers(pixels), dim=1)


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )
        self.said = nn.Linear(128, 10)

    def forward(self, picture):
        return self.said(self.seen(picture))


class Halves(nn.Module):
    """Two inputs and two outputs, by name."""

    def __init__(self):
        super().__init__()
        self.upper, self.lower, self.both = nn.Linear(32, 16), nn.Linear(32, 16), nn.Linear(32, 10)

    def forward(self, lower, upper):
        seen = torch.cat([torch.relu(self.upper(upper)), torch.relu(self.lower(lower))], dim=1)
        logits = self.both(seen)
        return {"logits": logits, "label": logits.argmax(dim=1), "hidden": None}


class Words(nn.Module):
    """Tokens of any number, by a recurrent net; 0 is padding."""

    def __init__(self):
        super().__init__()
        self.known = nn.Embedding(20, 8, padding_idx=0)
        self.read = nn.LSTM(8, 16, batch_first=True)
        self.said = nn.Linear(16, 1)

    def forward(self, tokens):
        _, (last, _) = self.read(self.known(tokens))
        return torch.sigmoid(self.said(last[-1]))[:, 0]


class Branching(nn.Module):
    """What only a script keeps: a loop that ends by what it sees."""

    def __init__(self):
        super().__init__()
        self.step, self.said = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, pixels):
        seen = pixels
        for _ in range(2):
            if bool(seen.abs().max() > 0):
                seen = torch.relu(self.step(seen))
        return self.said(seen)


def perceptron(folder):
    """As MLflow's documentation logs one: pt2, and so an input example."""
    x, judged, y, right = digits()
    model = train(Perceptron(), x, y)
    save(folder, model, x, input_example=x[:4])
    return {"input": judged}, right, {"input": x}, y, several(right, asked(model, judged))


def one_row_for_example(folder):
    """The trap of pt2: an example of one row fixes the batch at one row."""
    x, judged, y, right = digits()
    save(folder, train(Perceptron(), x, y, epochs=1), x, input_example=x[:1])
    return {"input": judged}, right, {"input": x}, y, {}


def pickled_table(folder):
    """A signature of columns, from a DataFrame, and the whole module pickled."""
    data = datasets.load_diabetes(as_frame=True)
    x, judged, y, right = train_test_split(data.data, data.target, test_size=0.5, random_state=0)
    y, right = [(each / 100).to_numpy(np.float32) for each in (y, right)]
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))
    train(model, x.to_numpy(np.float32), y, nn.functional.mse_loss)
    said = asked(model, judged.to_numpy(np.float32))
    signature = infer_signature(x, pd.DataFrame(asked(model, x.to_numpy(np.float32))))
    save(folder, model, x, signature=signature, serialization_format="pickle")
    return judged, right, x, y, {"mae": metrics.mean_absolute_error(right, said)}


def pictures(folder):
    """A module with code of its own, pickled, and the code logged beside it."""
    x, judged, y, right = digits(as_pictures=True)
    model = train(Pictures(), x, y)
    said = torch.softmax(torch.from_numpy(asked(model, judged)), dim=1).numpy()
    save(folder, model, x, serialization_format="pickle", code_paths=[__file__])
    numbers = {"accuracy": metrics.accuracy_score(right, said.argmax(axis=1))}
    return {"input": judged}, right, {"input": x}, y, numbers


def halves(folder):
    """Which MLflow's own wrapper does not serve."""
    x, judged, y, right = digits()
    model = Halves()
    both = [tuple(np.split(each, 2, axis=1)) for each in (x, judged)]
    train(_Logits(model), both[0], y)
    fields = [TensorSpec(np.dtype(np.float32), (-1, 32), name) for name in ("lower", "upper")]
    save(
        folder,
        model,
        x,
        signature=ModelSignature(Schema(fields)),
        serialization_format="pickle",
        code_paths=[__file__],
    )
    said = asked(_Logits(model), *both[1]).argmax(axis=1)
    numbers = {"accuracy": metrics.accuracy_score(right, said)}
    names = ("lower", "upper")
    judged, x = (dict(zip(names, half, strict=True)) for half in reversed(both))
    return judged, right, x, y, numbers


class _Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *inputs):
        return self.model(*inputs)["logits"]


def words(folder):
    """Whole numbers, and a length that is free."""
    rng = np.random.default_rng(0)
    sets = []
    for _ in range(2):
        tokens = rng.integers(1, 20, (800, 12))
        tokens[rng.random((800, 12)) < 0.1] = 0
        sets.append((tokens, ((tokens == 7).any(axis=1) ^ (rng.random(800) < 0.05)).astype(np.float32)))
    (x, y), (judged, right) = sets
    model = train(Words(), x, y, nn.functional.binary_cross_entropy, epochs=15)
    fields = [TensorSpec(np.dtype(np.int64), (-1, -1), "tokens")]
    outputs = Schema([TensorSpec(np.dtype(np.float32), (-1,), "score")])
    signature = ModelSignature(Schema(fields), outputs)
    save(folder, model, x, signature=signature, serialization_format="pickle", code_paths=[__file__])
    said = asked(model, judged)
    numbers = {
        "accuracy": metrics.accuracy_score(right, said >= 0.5),
        "auc": metrics.roc_auc_score(right, said),
    }
    return {"tokens": judged}, right.astype(int), {"tokens": x}, y.astype(int), numbers


def scripted(folder):
    x, judged, y, right = digits()
    model = torch.jit.script(train(Branching(), x, y))
    said = asked(model, judged)
    save(folder, model, x, serialization_format="pickle")
    numbers = {"accuracy": metrics.accuracy_score(right, said.argmax(axis=1))}
    return {"input": judged}, right, {"input": x}, y, numbers


def left_in_training(folder):
    """Logged without `eval()`, as is easily forgotten: MLflow's wrapper calls it, and so do we."""
    x, judged, y, right = digits()
    model = train(Perceptron(), x, y)
    # Whose signature is taken from an answer that its batch norms learn from, too.
    save(folder, model.train(), x, serialization_format="pickle", code_paths=[__file__])
    numbers = several(right, asked(model.eval(), judged))
    return {"input": judged}, right, {"input": x}, y, numbers


def save(folder, model, x, **settings):
    if "signature" not in settings:
        with torch.no_grad():
            settings["signature"] = infer_signature(x, model(torch.from_numpy(x)).numpy())
    requirements = json.loads(Path(sys.argv[3]).read_text())
    mlflow.pytorch.save_model(model, folder / "model", pip_requirements=requirements, **settings)


def ask_mlflow(folder, judged):
    """What a client of MLflow's own server sends, and what it is answered."""
    rows = judged.head(3) if isinstance(judged, pd.DataFrame) else judged["input"][:3]
    said = mlflow.pyfunc.load_model(str(folder / "model")).predict(rows)
    if isinstance(rows, pd.DataFrame):
        body = {"dataframe_split": json.loads(rows.to_json(orient="split"))}
        # Names become text in JSON.
        said = json.loads(said.to_json(orient="records"))
    else:
        body, said = {"inputs": rows.tolist()}, said.tolist()
    (folder / "asked.json").write_text(json.dumps({"body": body, "predictions": said}))


def several(right, said):
    return {
        "accuracy": metrics.accuracy_score(right, said.argmax(axis=1)),
        "auc": metrics.roc_auc_score(right, said, multi_class="ovr"),
    }


def table(rows):
    if isinstance(rows, pd.DataFrame):
        return rows
    return pd.DataFrame({name: list(array.reshape(len(array), -1)) for name, array in rows.items()})


if __name__ == "__main__":
    # Pickled classes need a module that can be imported again.
    import save_torch

    target = Path(sys.argv[2])
    judged, right, x, y, numbers = getattr(save_torch, sys.argv[1])(target)
    table(judged).assign(right=np.asarray(right)).to_parquet(target / "evaluation.parquet", index=False)
    table(x).assign(right=np.asarray(y)).to_parquet(target / "calibration.parquet", index=False)
    if sys.argv[1] in ("perceptron", "pickled_table"):
        ask_mlflow(target, judged)
    (target / "numbers.json").write_text(json.dumps({name: float(value) for name, value in numbers.items()}))

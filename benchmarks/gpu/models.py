"""The models that GPUs are measured with, made on the spot, each also in fp16 as a release would make it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx

from benchmarks.gpu.resnet import resnet18, resnet50, resnet50_of_bytes
from benchmarks.serving.models import SUBJECTS, Subject
from examples.service.minilm import Config, encoder
from model_store.quantize import half
from tests.bundles import make_bundle, mlp
from tests.tiny_minilm import weights

TOKENS = 128
_BERT = Config(hidden_size=768, num_attention_heads=12, num_hidden_layers=12, layer_norm_eps=1e-12)
_CALIBRATION_ROWS = 64


def bert(path: Path) -> None:
    """BERT-base's 12 layers for 128 tokens, with random weights and a small vocabulary."""
    random = np.random.default_rng(0)
    made = weights(config=_BERT, wide=3072)
    made["embeddings.position_embeddings.weight"] = random.normal(0, 0.1, (TOKENS, 768)).astype(np.float32)
    model = encoder(made, _BERT)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[1].dim_value = TOKENS
    onnx.save(model, path)


def _image(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"input": rng.random((1, 3, 224, 224)).astype(np.float32)}


def _photograph(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"input": rng.integers(0, 256, (1, 3, 224, 224), np.uint8)}


def _sentence(rng: np.random.Generator) -> dict[str, np.ndarray]:
    ids = rng.integers(0, 60, (1, TOKENS))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


MODELS = {
    "mlp": SUBJECTS["mlp"],
    "cnn": SUBJECTS["cnn"],
    "resnet18": Subject("resnet18", resnet18, _image),
    "resnet50": Subject("resnet50", resnet50, _image),
    "resnet50_of_bytes": Subject("resnet50_of_bytes", resnet50_of_bytes, _photograph),
    "bert": Subject("bert", bert, _sentence),
}


@dataclass(frozen=True, slots=True)
class Built:
    """A model's bundle in one precision, and rows for it."""

    bundle: Path
    rows: dict[str, np.ndarray]


def build(name: str, precision: str, *, max_batch_size: int = 32) -> Built:
    """`precision`: fp32 or fp16."""
    model, rows = _made(name)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if precision == "fp16":
        copy = onnx.load_model_from_string(half.convert(copy, rows)[0])
    folder = Path(tempfile.mkdtemp(prefix=f"gpu-{name}-{precision}-"))
    serving = {"max_batch_size": max_batch_size, "threads": 1, "timeout_ms": 10_000, "stochastic": True}
    return Built(make_bundle(folder, copy, name="m", serving=serving, warmup=rows), rows)


@cache
def _made(name: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        MODELS[name].make(path)
        model = onnx.load(path)
    rng = np.random.default_rng(7)
    rows = [MODELS[name].rows(rng) for _ in range(_CALIBRATION_ROWS)]
    return model, {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}


def digits(precision: str) -> tuple[Built, np.ndarray]:
    """A classifier of handwritten digits that scikit-learn trained, and what its unseen rows are."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    trained = MLPClassifier((64, 32), random_state=0, max_iter=300).fit(pixels[::2], labels[::2])
    model = mlp((64, 64, 32, 10))
    found = {f"w{i}": w for i, w in enumerate(trained.coefs_)}
    found |= {f"b{i}": b for i, b in enumerate(trained.intercepts_)}
    for weight in model.graph.initializer:
        weight.CopyFrom(onnx.numpy_helper.from_array(found[weight.name].astype(np.float32), weight.name))
    rows = {"input": pixels[1::2]}
    if precision == "fp16":
        model = onnx.load_model_from_string(half.convert(model, rows)[0])
    folder = Path(tempfile.mkdtemp(prefix=f"gpu-digits-{precision}-"))
    return Built(make_bundle(folder, model, name="m", serving={"max_batch_size": 32}), rows), labels[1::2]

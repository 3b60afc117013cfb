"""Lays out bundle directories (manifest schema 1) from ONNX graphs made on the spot, for tests of anything
that serves, deploys or routes to pods."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_store.signing import Keyring

_OIP: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.DOUBLE: "FP64",
    TensorProto.INT8: "INT8",
    TensorProto.INT16: "INT16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.UINT8: "UINT8",
    TensorProto.UINT16: "UINT16",
    TensorProto.UINT32: "UINT32",
    TensorProto.UINT64: "UINT64",
    TensorProto.BOOL: "BOOL",
    TensorProto.STRING: "BYTES",
}


def mlp(sizes: Sequence[int] = (4, 8, 2), seed: int = 0) -> onnx.ModelProto:
    """An MLP as the demo's: `input` [N, sizes[0]] to `label` [N] and `probabilities` [N, sizes[-1]]."""
    rng = np.random.default_rng(seed)
    nodes, weights, last = [], [], "input"
    for i, (rows, columns) in enumerate(pairwise(sizes)):
        weight = (rng.standard_normal((rows, columns)) / rows**0.5).astype(np.float32)
        weights += [
            numpy_helper.from_array(weight, f"w{i}"),
            numpy_helper.from_array(np.zeros(columns, "f"), f"b{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"h{i}"]))
        last = f"h{i}"
        if i < len(sizes) - 2:
            nodes.append(helper.make_node("Relu", [last], [f"r{i}"]))
            last = f"r{i}"
    nodes.append(helper.make_node("Softmax", [last], ["probabilities"], axis=1))
    nodes.append(helper.make_node("ArgMax", [last], ["label"], axis=1, keepdims=0))
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", sizes[0]])]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", sizes[-1]]),
    ]
    return model_of(nodes, inputs, outputs, weights)


def elementwise(
    operator: str = "Identity", element: int = TensorProto.FLOAT, shape: Sequence[int | str] = ("N", 2)
) -> onnx.ModelProto:
    """One operator from `x` to `y` of the same type and shape; Identity serves every datatype there is."""
    node = helper.make_node(operator, ["x"], ["y"])
    value = helper.make_tensor_value_info
    return model_of([node], [value("x", element, list(shape))], [value("y", element, list(shape))])


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """A checked model of the opset and IR version that the onnxruntime in use knows."""
    graph = helper.make_graph(list(nodes), "test", list(inputs), list(outputs), list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def make_bundle(
    parent: Path,
    model: onnx.ModelProto,
    *,
    name: str = "credit_risk",
    version: int = 1,
    serving: dict[str, Any] | None = None,
    warmup: dict[str, np.ndarray] | None = None,
    keys: Path | None = None,
) -> Path:
    """Write `<parent>/<id>/` as the bundle publisher does, signed by `keys` if named, and return it."""
    payload = model.SerializeToString()
    digest = hashlib.sha256(payload).hexdigest()
    settings = serving or {}
    identity = json.dumps([name, version, digest, settings], sort_keys=True)
    bundle_id = hashlib.sha256(identity.encode()).hexdigest()[:24]
    file = f"{name}/1/model.onnx"
    bundle = parent / bundle_id
    (bundle / file).parent.mkdir(parents=True)
    (bundle / file).write_bytes(payload)
    if warmup:
        np.savez(bundle / "warmup.npz", **warmup)  # type: ignore[arg-type]
    files = {file: f"sha256:{digest}"}
    if warmup:
        rows = hashlib.sha256((bundle / "warmup.npz").read_bytes())
        files["warmup.npz"] = f"sha256:{rows.hexdigest()}"
    manifest = {
        "schema": 1,
        "id": bundle_id,
        "model": {"name": name, "version": version},
        "platform": "onnxruntime",
        "precision": "fp32",
        "file": file,
        "digest": f"sha256:{digest}",
        "inputs": [_tensor(value) for value in model.graph.input],
        "outputs": [_tensor(value) for value in model.graph.output],
        "serving": settings,
        "warmup": "warmup.npz" if warmup else None,
        "session_config": {},
        "files": files,
    }
    if keys:
        manifest["signature"] = Keyring.of(keys).sign(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = value.type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
    return {"name": value.name, "datatype": _OIP[kind.elem_type], "shape": shape}

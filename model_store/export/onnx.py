"""The `onnx` flavour: the file is the model; it is checked, never executed as code."""

from __future__ import annotations

from pathlib import Path

import onnx

from model_store.dataset import read_dataset
from model_store.export.mlmodel import LoggedModel
from model_store.export.onnx_file import parse, read_onnx, tensor_specs
from model_store.export.original import Original
from model_store.export.says import said_by_graph
from model_store.export.signature import match
from model_store.inference import answer, open_session
from model_store.release_spec import ReleaseSpec
from model_store.types import Toolchain


def convert(logged: LoggedModel, spec: ReleaseSpec, evaluation: Path) -> Original:
    """The checked file with its weights inside, and what the logged file answers. Raises `Permanent`."""
    path = logged.file(str(logged.flavor("onnx").get("data") or "model.onnx"))
    content = read_onnx(path, max_size_mb=spec.source.max_size_mb)
    model = parse(content, path)
    inputs, outputs = tensor_specs(model)
    columns = match(logged.signature, inputs, outputs) if logged.signature else None
    rows = read_dataset(evaluation, spec.data, inputs, columns=None if spec.data.inputs else columns)
    return Original(
        content,
        rows,
        answer(open_session(path), rows.inputs),
        Toolchain("onnx", onnx.__version__),
        said_by_graph(model),
        is_itself=content == path.read_bytes(),
    )

"""The `onnx` flavour: the file is the model; it is checked, never executed as code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from model_store.dataset import Dataset, read_dataset
from model_store.export.agreement import agree
from model_store.export.base import Original
from model_store.export.mlmodel import LoggedModel
from model_store.export.onnx_file import parse, read_onnx, tensor_specs
from model_store.export.outputs import constant_outputs, without_outputs
from model_store.export.says import said_by_graph
from model_store.export.signature import match
from model_store.inference import answer, open_session
from model_store.release_spec import ReleaseSpec
from model_store.types import Check, Toolchain

Array = np.ndarray[Any, Any]


def convert(logged: LoggedModel, spec: ReleaseSpec, evaluation: Path, work: Path) -> Original:
    """The checked file with its weights inside, and what the logged file answers. Raises `Permanent`.

    Outputs that no input reaches are left out: they answer no row.
    """
    path = logged.file(str(logged.flavor("onnx").get("data") or "model.onnx"))
    content = read_onnx(path, max_size_mb=spec.source.max_size_mb)
    model = parse(content, path)
    if constant := constant_outputs(model):
        model = without_outputs(model, constant)
        content = model.SerializeToString(deterministic=True)
    inputs, outputs = tensor_specs(model)
    columns = match(logged.signature, inputs, outputs, constant) if logged.signature else None
    rows = read_dataset(evaluation, spec.data, inputs, columns=None if spec.data.inputs else columns)
    original, agreement = _answered(path, content, rows, spec, [output.name for output in outputs])
    return Original(
        content,
        rows,
        original,
        Toolchain("onnx", onnx.__version__),
        agreement,
        said_by_graph(model),
        tuple(f"output `{name}` is not served: it is the same for every input" for name in constant),
    )


def _answered(
    path: Path, content: bytes, rows: Dataset, spec: ReleaseSpec, names: list[str]
) -> tuple[dict[str, Array], Check]:
    """What the logged file says to the rows, and whether what will be served says the same."""
    size = spec.serving.max_batch_size
    original = answer(open_session(path), rows.inputs, batch_size=size, outputs=names)
    # Half a minute for a transformer and a thousand rows: not twice for the same bytes.
    is_itself = content == path.read_bytes()
    served = original if is_itself else answer(open_session(content), rows.inputs, batch_size=size)
    return original, agree(original, served, tolerance=spec.gates.export_tolerance)

"""From an MLflow model folder to one checked ONNX file that says what the original says.

One module per flavour: `onnx` is read; `sklearn`, `boosters` and `pytorch` are converted in a child, if
allowed.
`as_logged` is for the rest, which is served as it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model_store.arrays import saved_answers
from model_store.durable import digest_bytes
from model_store.export import boosters, onnx, pytorch, sklearn
from model_store.export.allowed import code_format, told_of_trust
from model_store.export.base import (
    ANSWERS_FILE,
    MODEL_FILE,
    ExportedModel,
    NoConverter,
    NotExportable,
    Original,
)
from model_store.export.batches import BatchedModel, require_answers_row_by_row
from model_store.export.invocations import invocations
from model_store.export.mlmodel import LoggedModel, read_mlmodel
from model_store.export.onnx_file import parse, tensor_specs
from model_store.export.outputs import as_answered
from model_store.export.signature import told_of_signature, with_signature
from model_store.inference import open_session
from model_store.release_spec import ReleaseSpec
from model_store.types import ModelRef, TensorSpec

__all__ = ["ExportedModel", "NoConverter", "NotExportable", "export"]

CONVERTERS: dict[str, Callable[[LoggedModel, ReleaseSpec, Path, Path], Original]] = {
    "onnx": onnx.convert,
    "sklearn": sklearn.convert,
    **boosters.CONVERTERS,
    "pytorch": pytorch.convert,
}


def export(
    ref: ModelRef, spec: ReleaseSpec, model_dir: Path, out_dir: Path, *, evaluation: Path
) -> ExportedModel:
    """Turn the downloaded model in `model_dir` into `out_dir`/model.onnx and the original's answers.

    The same model and rows give the same bytes. Raises `Permanent` (NotExportable, UnusableData, NotRunnable)
    for what can never be exported, `Retryable` when the conversion was killed from outside.
    """
    logged = read_mlmodel(model_dir)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    # Beside the result, so that what a killed export leaves is swept with it.
    with tempfile.TemporaryDirectory(prefix="export-", dir=out_dir.parent) as work:
        flavor = spec.source.flavor or exportable_flavor(logged)
        # An ONNX file says itself what it takes.
        logged = logged if flavor == "onnx" else with_signature(logged, spec.data, evaluation)
        original = CONVERTERS[flavor](logged, spec, evaluation, Path(work))
    model = parse(original.onnx, out_dir / MODEL_FILE)
    require_answers_row_by_row(
        BatchedModel.graph(open_session(original.onnx), model),
        original.rows.inputs,
        max_batch_size=spec.serving.max_batch_size,
        probabilities=frozenset(name for name, are in original.says["probabilities"].items() if are),
        stochastic=spec.serving.stochastic,
    )
    inputs, outputs = tensor_specs(model)
    outputs = as_answered(outputs, original.answers)
    asked = invocations(logged, inputs, outputs, original.rows.columns, original.answer, spec.data)
    told = (*told_of_signature(logged), *told_of_trust(spec, code_format(logged, flavor)))
    original = replace(original, notes=(*original.notes, *told))
    return _written(ref, out_dir, original, inputs, outputs, asked)


def exportable_flavor(logged: LoggedModel) -> str:
    """Of the flavours that a model was logged with, the first that can be exported: the safest comes first.

    Raises `Permanent` (NoConverter) when there is none.
    """
    if flavor := next((one for one in CONVERTERS if one in logged.flavors), None):
        return flavor
    raise NoConverter(
        f"nothing exports its flavours, {', '.join(sorted(logged.flavors))}",
        remedy="serve it as it was logged, with the same gates: if only people you trust can register"
        " versions, write source.allow: [pyfunc]",
    )


def _written(
    ref: ModelRef,
    out_dir: Path,
    original: Original,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    asked: Mapping[str, Any],
) -> ExportedModel:
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / MODEL_FILE
    path.write_bytes(original.onnx)
    (out_dir / ANSWERS_FILE).write_bytes(saved_answers(original.answers))
    return ExportedModel(
        model=ref,
        path=path,
        digest=digest_bytes(original.onnx),
        size_bytes=len(original.onnx),
        inputs=inputs,
        outputs=outputs,
        columns=dict(original.rows.columns),
        toolchain=original.toolchain,
        answers=out_dir / ANSWERS_FILE,
        agreement=original.agreement,
        dataset_digest=original.rows.digest,
        says=original.says,
        notes=original.notes,
        invocations=asked,
    ).save()

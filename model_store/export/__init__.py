"""From an MLflow model folder to one checked ONNX file that says what the original says.

One module per flavour: `onnx` is read, `sklearn` is converted in a child process if its source is trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from model_store.durable import digest_bytes
from model_store.export import onnx, sklearn
from model_store.export.agreement import agree
from model_store.export.base import ANSWERS_FILE, MODEL_FILE, ExportedModel, NotExportable
from model_store.export.mlmodel import LoggedModel, read_mlmodel
from model_store.export.onnx_file import parse, tensor_specs
from model_store.export.original import Original
from model_store.inference import answer, open_session, saved_answers
from model_store.release_spec import ReleaseSpec
from model_store.types import ModelRef

__all__ = ["ExportedModel", "NotExportable", "export"]

CONVERTERS: dict[str, Callable[[LoggedModel, ReleaseSpec, Path], Original]] = {
    "onnx": onnx.convert,
    "sklearn": sklearn.convert,
}

Answers = dict[str, np.ndarray[Any, Any]]


def export(
    ref: ModelRef, spec: ReleaseSpec, model_dir: Path, out_dir: Path, *, evaluation: Path
) -> ExportedModel:
    """Turn the downloaded model in `model_dir` into `out_dir`/model.onnx and the original's answers.

    The same model and rows give the same bytes. Raises `Permanent` (NotExportable, UnusableData, NotRunnable)
    for what can never be exported, `Retryable` when the conversion was killed from outside.
    """
    original = CONVERTERS[spec.source.flavor](read_mlmodel(model_dir), spec, evaluation)
    # Half a minute for a transformer and a thousand rows: not twice.
    answers = (
        original.answers if original.is_itself else answer(open_session(original.onnx), original.rows.inputs)
    )
    said = _in_shape(original.answers, answers)
    agreement = agree(said, answers, tolerance=spec.gates.export_tolerance)
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / MODEL_FILE
    path.write_bytes(original.onnx)
    (out_dir / ANSWERS_FILE).write_bytes(saved_answers(said))
    inputs, outputs = tensor_specs(parse(original.onnx, path))
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
        agreement=agreement,
        dataset_digest=original.rows.digest,
        says=original.says,
    ).save()


def _in_shape(original: Answers, onnx: Answers) -> Answers:
    """scikit-learn predicts [N] where ONNX answers [N, 1]: the same numbers, in the shape that is served."""
    return {
        name: array.reshape(onnx[name].shape) if array.size == onnx[name].size else array
        for name, array in original.items()
    }

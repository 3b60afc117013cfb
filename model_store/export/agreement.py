"""Does the ONNX model say what the original says, on the same rows?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from model_store.export.base import NotExportable
from model_store.types import Check

Array = np.ndarray[Any, Any]
Answers = Mapping[str, Array]


def agree(original: Answers, onnx: Answers, *, tolerance: float) -> Check:
    """The largest difference over all outputs and rows. Raises `Permanent` above `tolerance` or for NaN.

    Numbers: |onnx - original| / max(1, |original|), so absolute for probabilities and relative for large
    values. Class numbers and text: the share of rows that differ.
    """
    refuse_nan(original, "the original model")
    refuse_nan(onnx, "the ONNX model")
    differences = {name: _difference(original[name], onnx[name], name) for name in original}
    worst = max(differences, key=lambda name: differences[name])
    check = Check(
        name="export agreement",
        observed=differences[worst],
        limit=tolerance,
        passed=differences[worst] <= tolerance,
        detail=f"largest difference from the original, in output {worst}",
    )
    if not check.passed:
        raise NotExportable(
            f"output `{worst}` of the ONNX model is {check.observed:.3g} off the original's on the same rows;"
            f" the limit is {tolerance:g}",
            remedy="check that the model takes float32; if the difference is harmless, raise"
            " gates.export_tolerance in the spec",
        )
    return check


def refuse_nan(answers: Answers, who: str) -> None:
    """Raises `Permanent` when any number is NaN or infinite: such answers cannot be judged nor served."""
    for name, array in answers.items():
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        rows = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        raise NotExportable(
            f"{who} answers NaN or infinity in output `{name}` to {len(rows)} of {len(array)} rows,"
            f" first to row {rows[0]}",
            remedy="look at that row and at the training; a diverged model must not be served",
        )


def _difference(original: Array, onnx: Array, name: str) -> float:
    if original.shape != onnx.shape:
        raise NotExportable(
            f"output `{name}` has shape {onnx.shape} in ONNX and {original.shape} in the original",
            remedy="export it again; this converter does not understand the model",
        )
    if original.dtype.kind != "f":
        return float(np.mean(original.astype(str) != onnx.astype(str)))
    wide = original.astype(np.float64)
    return float(np.max(np.abs(onnx - wide) / np.maximum(1.0, np.abs(wide)), initial=0.0))

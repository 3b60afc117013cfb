"""What a flavour's converter hands over: the ONNX bytes, and the original's answers to the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from model_store.dataset import Dataset
from model_store.export.says import Says
from model_store.types import Check, Toolchain


@dataclass(frozen=True, slots=True, eq=False)
class Original:
    """`answers`: by ONNX output name, [N, ...], for the evaluation rows `rows`.

    `agreement`: of `onnx` with the original. `says`: what the model says of itself (see
    `model_store.export.says`). `notes`: what a person should know of the export, in sentences. `answer`: what
    `predict` of the logged model answers (`model_store.export.invocations`), None for all of its outputs.
    """

    onnx: bytes
    rows: Dataset
    answers: dict[str, np.ndarray[Any, Any]]
    toolchain: Toolchain
    agreement: Check
    says: Says
    notes: tuple[str, ...] = ()
    answer: dict[str, Any] | None = None

"""What a flavour's converter hands over: the ONNX bytes, and the original's answers to the same rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model_store.dataset import Dataset
from model_store.export.says import Says, nothing_said
from model_store.types import Toolchain


@dataclass(frozen=True, slots=True, eq=False)
class Original:
    """`answers`: by ONNX output name, [N, ...], for the evaluation rows `rows`.

    `says`: what the model says of itself (see `model_store.export.says`).
    `is_itself`: `onnx` is the logged file to the byte, so asking it again says nothing new.
    """

    onnx: bytes
    rows: Dataset
    answers: dict[str, np.ndarray[Any, Any]]
    toolchain: Toolchain
    says: Says = field(default_factory=nothing_said)
    is_itself: bool = False

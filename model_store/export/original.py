"""What a flavour's converter hands over: the ONNX bytes, and the original's answers to the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from model_store.dataset import Dataset
from model_store.types import Toolchain


@dataclass(frozen=True, slots=True, eq=False)
class Original:
    """`answers`: by ONNX output name, [N, ...], for the evaluation rows `rows`.

    `is_itself`: `onnx` is the logged file to the byte, so asking it again says nothing new.
    """

    onnx: bytes
    rows: Dataset
    answers: dict[str, np.ndarray[Any, Any]]
    toolchain: Toolchain
    is_itself: bool = False

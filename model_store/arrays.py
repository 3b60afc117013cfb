"""Rows as named arrays, apart from what runs a model: the controller reads them, and has no engine."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

Rows = Mapping[str, np.ndarray[Any, Any]]


def count_rows(rows: Rows) -> int:
    """First dimension of the arrays. Raises ValueError when they differ or none is there."""
    counts = {len(array) for array in rows.values()}
    if len(counts) != 1:
        raise ValueError(f"inputs must have one common number of rows, got {sorted(counts)}")
    return counts.pop()


def spread(rows: Rows, most: int) -> np.ndarray[Any, Any]:
    """Places of up to `most` rows, evenly from the first to the last."""
    count = count_rows(rows)
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def saved_answers(outputs: Rows) -> bytes:
    """The outputs as .npz, text as numpy's own type: an object array would need pickle."""
    buffer = io.BytesIO()
    plain = {name: array.astype(str) if array.dtype == object else array for name, array in outputs.items()}
    np.savez(buffer, allow_pickle=False, **plain)
    return buffer.getvalue()

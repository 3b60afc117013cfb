"""Text as engines have it (`bytes`) and as people do (`str`), in arrays by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def as_bytes(rows: Mapping[str, Array]) -> dict[str, Array]:
    """Text encoded, all else as it is."""
    return {name: encoded(array) if array.dtype.kind in "OU" else array for name, array in rows.items()}


def as_text(answers: Mapping[str, Array]) -> dict[str, Array]:
    """Bytes decoded, all else as it is. Raises UnicodeDecodeError."""
    return {name: _decoded(array) if array.dtype == object else array for name, array in answers.items()}


def encoded(array: Array) -> Array:
    """Each element as UTF-8."""
    flat = np.empty(array.size, dtype=object)
    flat[:] = [str(item).encode() for item in array.ravel()]
    return flat.reshape(array.shape)


def _decoded(array: Array) -> Array:
    flat = np.empty(array.size, dtype=object)
    flat[:] = [item.decode() for item in array.ravel()]
    return flat.reshape(array.shape)

"""What of a difference between two answers is noise: one rule for the export, the gates and the gateway.

Sums of another order differ in their last digits (a batch of another size, another thread, another engine),
and in fewer bits by a step of the scale. What decides by such a sum at a tie may decide either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from model_store.engines.registry import ON_GPUS

Array = np.ndarray[Any, Any]

# Of 1, or of the number itself where it is larger.
NOISE: dict[str, float] = {"fp32": 1e-3, "fp16": 1e-2, "int8": 0.1, "original": 1e-3}

# A GPU multiplies fp32 with the ten bits of TF32, by another kernel for another batch size.
_TF32 = NOISE["fp16"]


def noise_of(precision: str, engine: str) -> float:
    """Of what this engine (its platform's name) computes in this precision."""
    return max(NOISE[precision], _TF32) if engine in ON_GPUS else NOISE[precision]


def tied(scores: Array, within: float) -> Array:
    """[N] bool: whether the two largest of a row's scores [N, C] are closer than that. A forest of a hundred
    trees whose votes are fifty to fifty is decided by the last digit of their sum.
    """
    if scores.ndim != 2 or scores.shape[1] < 2:
        return np.zeros(len(scores), bool)
    ordered = np.sort(scores.astype(np.float64), axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(ordered[:, -1] - ordered[:, -2] < within)


def are_shares(array: Array) -> bool:
    """Whether every row is a distribution. A tenth of a millionth is noise there, however rare a class is."""
    if array.dtype.kind != "f" or array.ndim != 2 or array.shape[1] < 2:
        return False
    return bool((array >= 0).all() and np.allclose(array.sum(axis=1, dtype=np.float64), 1, atol=1e-3))


def rows_that_differ(one: Mapping[str, Array], other: Mapping[str, Array], noise: float) -> int:
    """How many rows have other answers in one than in the other. A label beside scores that were compared
    follows from them, and may go either way where they tie.
    """
    differs = np.zeros(len(next(iter(one.values()))), bool)
    floats = [name for name, values in one.items() if values.dtype.kind == "f"]
    may_flip = np.zeros(len(differs), bool)
    for name in floats:
        has_columns = one[name].ndim == 2 and one[name].shape[1] > 1
        may_flip |= tied(one[name], 2 * noise) if has_columns else True
    for name, values in one.items():
        apart = ~(_near(values, other[name], noise) if name in floats else values == other[name])
        by_row = apart.reshape(len(values), -1).any(axis=1)
        differs |= by_row if name in floats else by_row & ~may_flip
    return int(differs.sum())


def _near(one: Array, other: Array, noise: float) -> Array:
    wide, against = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        is_near = np.abs(wide - against) <= noise * np.maximum(1, np.abs(wide))
    return np.asarray(is_near | (wide == against) | (np.isnan(wide) & np.isnan(against)))

"""The tensor datatypes of the Open Inference Protocol v2 and what they are in numpy and in struct.

BF16 has no numpy dtype: its bytes travel as uint16 and are widened to float32 only to be printed as JSON.
BYTES elements have no fixed size; on the wire each is a little-endian uint32 length and that many bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Datatype(NamedTuple):
    """`code` is struct's format character ("" where struct cannot pack it); `size` in bytes, 0 for BYTES."""

    name: str
    dtype: np.dtype[np.generic]
    code: str
    size: int
    is_float: bool


def _fixed(name: str, dtype: str, code: str, *, is_float: bool = False) -> Datatype:
    found = np.dtype(dtype)
    return Datatype(name, found, code, found.itemsize, is_float)


DATATYPES: dict[str, Datatype] = {
    datatype.name: datatype
    for datatype in (
        _fixed("BOOL", "?", "?"),
        _fixed("UINT8", "u1", "B"),
        _fixed("UINT16", "<u2", "H"),
        _fixed("UINT32", "<u4", "I"),
        _fixed("UINT64", "<u8", "Q"),
        _fixed("INT8", "i1", "b"),
        _fixed("INT16", "<i2", "h"),
        _fixed("INT32", "<i4", "i"),
        _fixed("INT64", "<i8", "q"),
        _fixed("FP16", "<f2", "e", is_float=True),
        _fixed("FP32", "<f4", "f", is_float=True),
        _fixed("FP64", "<f8", "d", is_float=True),
        _fixed("BF16", "<u2", "", is_float=True),
        Datatype("BYTES", np.dtype(object), "", 0, False),
    )
}


def widen_bf16(raw: np.ndarray) -> np.ndarray:
    """BF16 bits (uint16) as float32: the upper half of the same number."""
    return (raw.astype(np.uint32) << 16).view(np.float32)


def narrow_bf16(values: np.ndarray) -> np.ndarray:
    """float32 as BF16 bits (uint16), rounded to nearest even; NaN stays NaN.

    Source: round-to-nearest-even on the upper 16 bits, as Eigen's `float_to_bfloat16_rtne`.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)

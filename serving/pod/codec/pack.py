"""JSON values to a tensor's bytes. The fast path is one struct call; whatever it refuses is looked at slowly.

`struct.pack` beats `numpy.array` and `array.array` on lists of Python floats by a factor of two
(docs/decisions/0020-http-server-and-json.md).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np

from model_store.engines.datatypes import DATATYPES, Datatype, narrow_bf16, widen_bf16
from model_store.engines.errors import Refused
from model_store.engines.signature import Shape, TensorSpec
from serving.pod.call import Data
from serving.pod.codec import nonfinite

_PACKERS: dict[tuple[str, int], Callable[..., bytes]] = {}
_REMEMBERED_PACKERS = 4096
_NUMBERS = {int, float}
_KINDS = {dict: "infinity or an object", type(None): "null or NaN", str: "text", bool: "true or false"}
_FAULTS = (struct.error, OverflowError, TypeError, ValueError, RecursionError)


def pack(spec: TensorSpec, values: Any, shape: Shape, count: int, *, may_hold_bools: bool) -> Data:
    """Row-major bytes of `values` (flat, or nested like `shape`). Raises `Refused` naming the tensor.

    `may_hold_bools`: the request text holds `true` or `false`, which struct would take for 1 and 0.
    """
    datatype = spec.datatype
    if datatype.code and not may_hold_bools and datatype.code != "?":
        try:
            return _packer(datatype, count)(*values)
        except _FAULTS:
            pass
    return _pack_slowly(spec, values, shape, count)


def _packer(datatype: Datatype, count: int) -> Callable[..., bytes]:
    key = (datatype.code, count)
    packer = _PACKERS.get(key)
    if packer is None:
        packer = struct.Struct(f"<{count}{datatype.code}").pack
        if len(_PACKERS) < _REMEMBERED_PACKERS:
            _PACKERS[key] = packer
    return packer


def _pack_slowly(spec: TensorSpec, values: Any, shape: Shape, count: int) -> Data:
    try:
        flat = _flatten(values, shape)
        if len(flat) != count:
            raise ValueError(f"{len(flat)} values, shape {list(shape)} needs {count}")
        return _pack_flat(spec.datatype, flat)
    except _FAULTS as error:
        raise Refused(
            f"input {spec.name!r}: {str(error)[:200]}",
            remedy=f"send {count} {spec.datatype.name} values, flat or nested like the shape",
        ) from error


def _flatten(values: Any, shape: Shape) -> list[Any]:
    if not isinstance(values, list):
        raise TypeError(f"`data` must be a list, got {type(values).__name__}")
    for size in shape[1:]:
        if not values or not isinstance(values[0], list):
            break
        if any(type(part) is not list or len(part) != size for part in values):
            raise ValueError("the nesting of `data` does not follow its shape")
        values = list(chain.from_iterable(values))
    flat: list[Any] = values
    return flat


def _pack_flat(datatype: Datatype, flat: list[Any]) -> Data:
    kinds = set(map(type, flat))
    if datatype.name == "BYTES":
        _expect(kinds, {str}, "strings")
        return [text.encode() for text in flat]
    if datatype.name == "BOOL":
        _expect(kinds, {bool}, "true or false")
    elif datatype.is_float:
        if not kinds <= _NUMBERS:
            flat = [value if type(value) is float else nonfinite.number(value) for value in flat]
            kinds = set(map(type, flat))
        _expect(kinds, _NUMBERS, "numbers")
    else:
        _expect(kinds, {int}, "integers")
    if datatype.name == "BF16":
        return _pack_bf16(flat)
    return _packer(datatype, len(flat))(*flat)


def _pack_bf16(flat: list[Any]) -> bytes:
    """Raises `OverflowError` for numbers out of its range, as struct does for the other kinds."""
    values = np.frombuffer(_packer(DATATYPES["FP32"], len(flat))(*flat), np.float32)
    narrow = narrow_bf16(values)
    if np.isinf(widen_bf16(narrow)[np.isfinite(values)]).any():
        raise OverflowError("float too large for BF16")
    return narrow.tobytes()


def _expect(kinds: set[type], allowed: set[type], words: str) -> None:
    if not kinds <= allowed:
        others = sorted(_KINDS.get(kind, kind.__name__) for kind in kinds - allowed)
        raise TypeError(f"`data` must be {words}, got {', '.join(others)}")

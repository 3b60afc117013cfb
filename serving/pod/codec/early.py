"""Whether a request is too large, from its first and last bytes.

Reading millions of numbers only to refuse them would keep everybody else waiting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod

from model_store.engines.signature import Shape, Signature, TensorSpec

# Smaller bodies are read in no time.
LARGE_BYTES = 65_536
# A tensor's shape stands before its data or behind.
_LOOKED_AT = 4096
# In JSON a quote within a string has a backslash before it, so this is a field and never text.
_SHAPE = re.compile(rb'(?<!\\)"shape"\s*:\s*\[\s*(\d{1,18}(?:\s*,\s*\d{1,18}){0,15})\s*\]')


def expect_not_too_large(
    signature: Signature, body: bytes | memoryview, length: int, json_bytes: int | None
) -> None:
    """`body` may be only the beginning of one of `length` bytes. Raises `TooLarge`.

    The first `json_bytes` are its JSON part, None where it is nothing else. What follows are a client's own
    bytes, which may look like anything.

    What passes may be too large still: it is looked at again once it is read.
    """
    read = len(body) if json_bytes is None else min(json_bytes, len(body))
    for start, end in ((0, min(_LOOKED_AT, read)), (max(read - _LOOKED_AT, 0), read)):
        for found in _SHAPE.finditer(body, start, end):
            shape = tuple(map(int, found[1].split(b",")))
            expect_shape(signature, shape, length, as_json=json_bytes is None)


def expect_shape(signature: Signature, shape: Shape, length: int, *, as_json: bool) -> None:
    """Of a tensor that is not known by name yet, in a message of `length` bytes. Raises `TooLarge`."""
    # A shape that the message cannot hold is a mistake, or stands for something else.
    if shape and prod(shape) <= length and all(not _fits(spec, shape, as_json) for spec in signature.inputs):
        raise _alike(signature.inputs, shape).too_large(shape, as_json=as_json)


def _fits(spec: TensorSpec, shape: Shape, as_json: bool) -> bool:
    is_by_rows = spec.shape[:1] == (-1,) and -1 not in spec.shape[1:]
    elements = shape[0] * spec.row_elements if is_by_rows else prod(shape)
    return elements <= (spec.max_json_elements if as_json else spec.max_elements)


def _alike(specs: Iterable[TensorSpec], shape: Shape) -> TensorSpec:
    known = list(specs)
    return next((spec for spec in known if len(spec.shape) == len(shape)), known[0])

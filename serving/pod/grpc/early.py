"""What a ModelInferRequest asks of whom, from its first bytes: they stand before millions of numbers.

Source: https://protobuf.dev/programming-guides/encoding/. Writers keep fields in the order of their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from model_store.engines.signature import Shape

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NAME, _VERSION, _INPUT, _SHAPE = 1, 2, 5, 3
_LOOKED_AT = 4096
_MOST_DIMENSIONS = 16


class Beginning(NamedTuple):
    """What was found of a request that may be cut short anywhere."""

    model: str
    version: str
    shapes: tuple[Shape, ...]


def beginning(message: bytes) -> Beginning:
    """Of a message's first bytes. What is no protobuf begins with nothing."""
    texts, shapes = {_NAME: b"", _VERSION: b""}, list[Shape]()
    for field, value in _fields(message[:_LOOKED_AT]):
        if field in texts and isinstance(value, bytes):
            texts[field] = value
        elif field == _INPUT and isinstance(value, bytes):
            shapes.append(_shape(value))
    model, version = (text.decode("utf-8", "replace") for text in texts.values())
    return Beginning(model, version, tuple(shapes))


def _shape(tensor: bytes) -> Shape:
    sizes: list[int] = []
    for field, value in _fields(tensor):
        if field == _SHAPE:
            sizes += _varints(value) if isinstance(value, bytes) else [value]
    return tuple(sizes[:_MOST_DIMENSIONS])


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and contents of the fields, the last one's content as far as it is there."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind in (_VARINT, _BYTES):
            value, at = _varint(data, at)
            yield tag >> 3, data[at : at + value] if kind == _BYTES else value
            at += value if kind == _BYTES else 0
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            return


def _varints(data: bytes) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number and what follows it; where it is cut short, nothing follows."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    return 0, len(data)

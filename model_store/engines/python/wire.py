"""Arrays between the pod and a model's process: one JSON header, then the arrays' bytes.

Loaded by both sides, also by the oldest Python that a model wants: numpy, and nothing of ours. Text and bytes
travel as object arrays of `bytes`, each with its length (as the Open Inference Protocol has BYTES).
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

import numpy as np

Array = np.ndarray
_LENGTH = struct.Struct("<I")


def send(connection: socket.socket, header: dict[str, Any], arrays: list[Array]) -> None:
    """One message. Raises OSError when nobody listens any more."""
    parts = [_encoded(array) for array in arrays]
    told = [[_code(array), list(array.shape), len(part)] for array, part in zip(arrays, parts)]  # noqa: B905
    head = json.dumps({**header, "arrays": told}).encode()
    connection.sendall(_LENGTH.pack(len(head)) + head)
    for part in parts:
        connection.sendall(part)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[Array]]:
    """The next message. Raises EOFError when the other side has ended."""
    (size,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    header = json.loads(bytes(_exactly(connection, size)))
    told = header.pop("arrays")
    return header, [_decoded(code, shape, _exactly(connection, size)) for code, shape, size in told]


def _code(array: Array) -> str:
    return "O" if array.dtype == object else array.dtype.newbyteorder("<").str


def _encoded(array: Array) -> bytes:
    if array.dtype != object:
        return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    elements = array.ravel().tolist()
    lengths = np.array([len(element) for element in elements], "<u4")
    return lengths.tobytes() + b"".join(elements)


def _decoded(code: str, shape: list[int], content: bytearray) -> Array:
    if code != "O":
        return np.frombuffer(content, code).reshape(shape)
    count = int(np.prod(shape, dtype=np.int64))
    lengths = np.frombuffer(content, "<u4", count)
    ends = 4 * count + np.cumsum(lengths, dtype=np.int64)
    whole = bytes(content)
    found = np.empty(count, dtype=object)
    found[:] = [whole[end - size : end] for end, size in zip(ends.tolist(), lengths.tolist())]  # noqa: B905
    return found.reshape(shape)


def _exactly(connection: socket.socket, size: int) -> bytearray:
    content = bytearray(size)
    view = memoryview(content)
    while len(view):
        count = connection.recv_into(view)
        if not count:
            raise EOFError("the other side has ended")
        view = view[count:]
    return content

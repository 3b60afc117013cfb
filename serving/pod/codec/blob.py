"""Raw tensor bytes (binary extension, gRPC raw contents) checked against datatype and shape."""

from __future__ import annotations

import struct

import numpy as np

from model_store.engines.errors import Refused
from model_store.engines.signature import TensorSpec


def read_blob(spec: TensorSpec, blob: memoryview, count: int) -> memoryview | list[bytes]:
    """The tensor's content, zero-copy except for BYTES. Raises `Refused` when the length disagrees."""
    if spec.datatype.name == "BYTES":
        return _read_elements(spec, blob, count)
    expected = count * spec.datatype.size
    if len(blob) != expected:
        raise Refused(
            f"input {spec.name!r}: {len(blob)} bytes of data, its shape and datatype need {expected}",
            remedy="make `binary_data_size` and the shape agree with the bytes sent",
        )
    if spec.datatype.name == "BOOL" and count and np.frombuffer(blob, np.uint8).max() > 1:
        raise Refused(f"input {spec.name!r}: BOOL bytes must be 0 or 1", remedy="send one byte per element")
    return blob


def _read_elements(spec: TensorSpec, blob: memoryview, count: int) -> list[bytes]:
    elements: list[bytes] = []
    position, end = 0, len(blob)
    while position < end and len(elements) <= count:
        if end - position < 4:
            raise _lying(spec)
        (length,) = struct.unpack_from("<I", blob, position)
        position += 4
        if length > end - position:
            raise _lying(spec)
        elements.append(bytes(blob[position : position + length]))
        position += length
    if len(elements) != count:
        raise Refused(
            f"input {spec.name!r}: its data does not hold the {count} elements its shape tells of",
            remedy="send as many length-prefixed elements as the shape has",
        )
    return elements


def _lying(spec: TensorSpec) -> Refused:
    return Refused(
        f"input {spec.name!r}: a length prefix points past the end of the data",
        remedy="each BYTES element is a little-endian uint32 length and that many bytes",
    )


def write_blob(array: np.ndarray, datatype_name: str) -> bytes:
    """A tensor's raw bytes; BYTES elements get their length prefixes."""
    if datatype_name != "BYTES":
        return array.tobytes()
    return write_elements(array.ravel().tolist())


def write_elements(elements: list[bytes]) -> bytes:
    """BYTES elements with their length prefixes."""
    return b"".join([struct.pack("<I", len(item)) + item for item in elements])

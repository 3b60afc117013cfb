"""Outputs as bytes and back, for the shared cache and the request log: a JSON head, then the raw tensors."""

from __future__ import annotations

import struct

import numpy as np
import orjson

from model_store.engines.errors import Refused
from model_store.engines.signature import Signature, TensorSpec
from serving.pod.call import BatchOutputs
from serving.pod.codec.blob import read_blob, write_blob

_LENGTH = struct.Struct("<L")


def wrap(outputs: BatchOutputs) -> bytes:
    """All of the outputs (use `Outputs.alone` first)."""
    specs = outputs.signature.outputs
    blobs = [write_blob(array, spec.datatype.name) for array, spec in zip(outputs.arrays, specs, strict=True)]
    head = orjson.dumps([[list(a.shape), len(b)] for a, b in zip(outputs.arrays, blobs, strict=True)])
    return b"".join([_LENGTH.pack(len(head)), head, *blobs])


def unwrap(parcel: bytes, signature: Signature) -> BatchOutputs | None:
    """The outputs, or None when the bytes are not what `wrap` made for this signature."""
    try:
        (size,) = _LENGTH.unpack_from(parcel)
        entries = orjson.loads(parcel[_LENGTH.size : _LENGTH.size + size])
        rest = memoryview(parcel)[_LENGTH.size + size :]
        arrays = []
        for spec, (shape, length) in zip(signature.outputs, entries, strict=True):
            arrays.append(_array(spec, rest[:length], spec.accept(shape).shape))
            rest = rest[length:]
        return BatchOutputs(arrays, signature)
    except (struct.error, ValueError, TypeError, Refused):
        return None


def _array(spec: TensorSpec, blob: memoryview, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape, dtype=np.int64))
    data = read_blob(spec, blob, count)
    if isinstance(data, list):
        array = np.empty(count, dtype=object)
        array[:] = data
        return array.reshape(shape)
    return np.frombuffer(data, spec.datatype.dtype).reshape(shape)

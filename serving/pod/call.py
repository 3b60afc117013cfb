"""One inference travelling through the pod, and the batch result it takes its rows from.

The hot path is callbacks, not coroutines: a task and a future per request cost more than a small model's
whole computation (docs/decisions/0021-callbacks-on-the-hot-path.md).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import orjson

from model_store.engines.datatypes import widen_bf16
from model_store.engines.errors import ModelFault
from model_store.engines.signature import Shape, Signature
from model_store.errors import SlipwayError
from serving.pod.codec import nonfinite
from serving.pod.codec.blob import write_blob

# A tensor's content in row-major order: little-endian bytes, or for BYTES the list of its elements.
Data = bytes | memoryview | list[bytes]


NEVER = float("inf")
# What a number takes as JSON, its comma included.
_JSON_BYTES = 12
# Clients choose the orders and forms of outputs; these live as long as a kept answer.
_REMEMBERED_TEMPLATES = 8


class Call:
    """Inputs in the signature's order. Subclasses say where the answer goes.

    `key` is equal for calls that may share a batch; `arrived`, `started` and `deadline` are seconds of the
    pod's clock. `source` says what the answer came from when that was not the model ("" when it was).
    """

    __slots__ = (
        "arrived", "data", "deadline", "identity", "key", "priority",
        "rows", "shapes", "source", "started", "timeout",
    )  # fmt: skip

    def __init__(self, data: list[Data], shapes: list[Shape], signature: Signature) -> None:
        self.data = data
        self.shapes = shapes
        self.rows = shapes[0][0] if signature.is_batched else 1
        self.key: object = None if signature.is_static else tuple(shape[1:] for shape in shapes)
        self.arrived = self.started = 0.0
        self.timeout = self.deadline = NEVER
        self.priority = 1
        self.identity: Hashable = None
        self.source = b""

    def identify(self, signature: Signature) -> Hashable:
        """What makes two calls the same: the exact input bytes, and the shapes where those can differ."""
        if signature.is_fixed:
            data = self.data[0]
            if type(data) is not bytes:
                # In place of the view, so that the request it was cut from need not be kept beside it.
                data = self.data[0] = bytes(data)  # type: ignore[arg-type]
            self.identity = data
        else:
            parts = tuple(tuple(d) if type(d) is list else bytes(d) for d in self.data)  # type: ignore[arg-type]
            self.identity = (parts, tuple(self.shapes))
        return self.identity

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """What came with the request."""
        return {}

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return False

    def answered(self, outputs: BatchOutputs, first: int) -> None:
        """The answer is rows `first` to `first + rows` of `outputs`."""
        raise NotImplementedError

    def failed(self, error: SlipwayError) -> None:
        """There is no answer."""
        raise NotImplementedError


class BatchOutputs:
    """A batch's results, kept whole; each form they are asked for in is made once for the whole batch.

    `templates` is the fronts' memory of response skeletons for this batch's shapes; `remember` adds to it.
    """

    __slots__ = ("_raws", "_rows", "arrays", "is_batched", "signature", "templates")

    def __init__(self, arrays: Sequence[np.ndarray], signature: Signature) -> None:
        self.arrays = arrays
        self.signature = signature
        self.is_batched = signature.is_batched
        self.templates: dict[object, bytes] = {}
        self._raws: list[bytes | None] = [None] * len(arrays)
        self._rows: list[list[bytes] | None] = [None] * len(arrays)

    def remember(self, key: object, template: bytes) -> None:
        """Keep a skeleton while there is room for it."""
        if len(self.templates) < _REMEMBERED_TEMPLATES:
            self.templates[key] = template

    def slice(self, position: int, first: int, rows: int) -> np.ndarray:
        """One output's part for one call, without copying."""
        array = self.arrays[position]
        return array[first : first + rows] if self.is_batched else array

    def raw(self, position: int, first: int, rows: int) -> bytes:
        """One output's raw bytes for one call; made once for the whole batch and cut."""
        whole = self._raws[position]
        if whole is None:
            spec = self.signature.outputs[position]
            if not self.is_batched or not spec.datatype.size or not rows:
                return write_blob(self.slice(position, first, rows), spec.datatype.name)
            whole = self._raws[position] = self.arrays[position].tobytes()
        row = len(whole) // len(self.arrays[position])
        return whole[first * row : (first + rows) * row]

    def alone(self, first: int, rows: int) -> BatchOutputs:
        """One call's part, copied: keeping it must not keep the whole batch."""
        if self.is_batched and len(self.arrays[0]) == rows:
            return self
        parts = [self.slice(i, first, rows) for i in range(len(self.arrays))]
        return BatchOutputs([part.copy() for part in parts], self.signature)

    def size_bytes(self) -> int:
        """What keeping this costs, roughly."""
        return sum(_size_bytes(array) for array in self.arrays)

    def json_rows(self, position: int) -> list[bytes]:
        """One output as JSON, cut into rows: each the row's elements separated by commas."""
        rows = self._rows[position]
        if rows is None:
            rows = self._rows[position] = self._print(position)
        return rows

    def _print(self, position: int) -> list[bytes]:
        array, spec = self.arrays[position], self.signature.outputs[position]
        if not array.size:
            return [b""] * (len(array) if self.is_batched else 1)
        flat = array.reshape(len(array) if self.is_batched else 1, -1)
        if spec.datatype.name == "BYTES":
            return [_print_texts(row) for row in flat]
        if spec.datatype.name in ("FP16", "BF16"):
            flat = widen_bf16(flat) if spec.datatype.name == "BF16" else flat.astype(np.float32)
        # One call prints the whole batch; rows cannot hold "],[" themselves because they are numbers.
        printed = orjson.dumps(np.ascontiguousarray(flat), option=orjson.OPT_SERIALIZE_NUMPY)
        if spec.datatype.is_float and b"n" in printed:
            printed = nonfinite.named(printed, flat)
        return printed[2:-2].split(b"],[")


def nothing(signature: Signature) -> BatchOutputs:
    """The outputs of no rows, which are the same whatever the model; a free dimension has no size either."""
    shapes = [(0, *(max(size, 0) for size in spec.shape[1:])) for spec in signature.outputs]
    specs = signature.outputs
    arrays = [np.empty(shape, spec.datatype.dtype) for shape, spec in zip(shapes, specs, strict=True)]
    return BatchOutputs(arrays, signature)


def _size_bytes(array: np.ndarray) -> int:
    if array.dtype == object:
        return sum(2 * len(item) + 64 for item in array.ravel())
    # Its JSON is kept beside it once somebody asked for that.
    return array.nbytes + 128 + _JSON_BYTES * array.size


def _print_texts(row: np.ndarray) -> bytes:
    try:
        return orjson.dumps([item.decode() for item in row])[1:-1]
    except UnicodeDecodeError as error:
        raise ModelFault(
            "the model gave bytes that are not UTF-8, which JSON cannot carry",
            remedy="ask for this output as binary data",
        ) from error

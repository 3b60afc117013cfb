"""Writes an OIP v2 infer response from a batch's outputs: JSON, or JSON followed by binary tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from serving.runtime.call import Outputs
from serving.runtime.codec.blob import write_blob
from serving.runtime.codec.request import WantedOutput
from serving.runtime.signature import Signature, TensorSpec

_REMEMBERED = 256


class ResponseWriter:
    """Knows one model's name, version and outputs, so that a response is little more than a format string."""

    def __init__(self, name: str, version: str, signature: Signature) -> None:
        self._signature = signature
        self._positions = range(len(signature.outputs))
        self._entries: dict[object, bytes] = {}
        self._start = b'{"model_name":%s,"model_version":%s' % (orjson.dumps(name), orjson.dumps(version))

    def plain(self, outputs: Outputs, first: int, rows: int, request_id: str) -> bytes:
        """All outputs as JSON: the common case."""
        template = outputs.templates.get(rows)
        if template is None:
            template = outputs.templates[rows] = self._template(outputs, rows)
        if rows == 1:
            cells = tuple([outputs.json_rows(i)[first] for i in self._positions])
        else:
            cells = tuple([_joined(outputs, i, first, rows) for i in self._positions])
        if request_id:
            return b"%s,%s" % (self._with_id(request_id), template % cells)
        return b"%s,%s" % (self._start, template % cells)

    def chosen(
        self, outputs: Outputs, first: int, rows: int, request_id: str, wanted: list[WantedOutput]
    ) -> tuple[bytes, bytes]:
        """The outputs asked for, in that order: the JSON part and the binary part."""
        arrays = [outputs.slice(position, first, rows) for position, _ in wanted]
        blobs = [
            write_blob(array, self._signature.outputs[position].datatype.name)
            for array, (position, is_binary) in zip(arrays, wanted, strict=True)
            if is_binary
        ]
        if len(blobs) == len(wanted):
            entries = self._binary_entries(wanted, arrays, blobs)
        else:
            entries = self._mixed_entries(wanted, arrays, outputs, first, rows)
        head = self._with_id(request_id) if request_id else self._start
        return b'%s,"outputs":[%s]}' % (head, entries), b"".join(blobs)

    def _binary_entries(
        self, wanted: list[WantedOutput], arrays: list[np.ndarray], blobs: list[bytes]
    ) -> bytes:
        """The same bytes for equal shapes and sizes, so they are remembered."""
        key = (*wanted, *[array.shape for array in arrays], *map(len, blobs))
        entries = self._entries.get(key)
        if entries is None:
            specs = [self._signature.outputs[position] for position, _ in wanted]
            entries = b",".join(map(_binary_entry, specs, arrays, blobs))
            if len(self._entries) < _REMEMBERED:
                self._entries[key] = entries
        return entries

    def _mixed_entries(
        self, wanted: list[WantedOutput], arrays: list[np.ndarray], outputs: Outputs, first: int, rows: int
    ) -> bytes:
        entries = []
        for (position, is_binary), array in zip(wanted, arrays, strict=True):
            spec = self._signature.outputs[position]
            if is_binary:
                entries.append(_binary_entry(spec, array, write_blob(array, spec.datatype.name)))
            else:
                printed = _joined(outputs, position, first, rows)
                entries.append(b'%s,"data":[%s]}' % (_entry(spec, array.shape), printed))
        return b",".join(entries)

    def _with_id(self, request_id: str) -> bytes:
        return b'%s,"id":%s' % (self._start, orjson.dumps(request_id))

    def _template(self, outputs: Outputs, rows: int) -> bytes:
        entries = []
        for spec, array in zip(self._signature.outputs, outputs.arrays, strict=True):
            shape = (rows, *array.shape[1:]) if outputs.is_batched else array.shape
            entries.append(b'%s,"data":[%%s]}' % _entry(spec, shape).replace(b"%", b"%%"))
        return b'"outputs":[%s]}' % b",".join(entries)


def _entry(spec: TensorSpec, shape: tuple[int, ...]) -> bytes:
    fields: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype.name, "shape": list(shape)}
    return orjson.dumps(fields)[:-1]


def _binary_entry(spec: TensorSpec, array: np.ndarray, blob: bytes) -> bytes:
    return b'%s,"parameters":{"binary_data_size":%d}}' % (_entry(spec, array.shape), len(blob))


def _joined(outputs: Outputs, position: int, first: int, rows: int) -> bytes:
    printed = outputs.json_rows(position)
    return b",".join(printed[first : first + rows]) if outputs.is_batched else printed[0]

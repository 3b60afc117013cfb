"""Writes an OIP v2 infer response from a batch's outputs: JSON, or JSON followed by binary tensors."""

from __future__ import annotations

from typing import Any

import orjson

from model_store.engines.signature import Signature, TensorSpec
from serving.pod.call import BatchOutputs
from serving.pod.codec.request import WantedOutput

# Clients choose how many rows they ask for.
_REMEMBERED = 256


class ResponseWriter:
    """Knows one model's name, version and outputs, so that a response is little more than a format string."""

    def __init__(self, name: str, version: str, signature: Signature) -> None:
        self._signature = signature
        self._positions = range(len(signature.outputs))
        self._templates: dict[tuple[object, ...], bytes] = {}
        self._start = b'{"model_name":%s,"model_version":%s' % (orjson.dumps(name), orjson.dumps(version))

    def plain(self, outputs: BatchOutputs, first: int, rows: int, request_id: str) -> bytes:
        """All outputs as JSON: the common case."""
        template = outputs.templates.get(rows)
        if template is None:
            template = self._template(outputs, rows)
            outputs.remember(rows, template)
        if rows == 1:
            cells = tuple([outputs.json_rows(i)[first] for i in self._positions])
        else:
            cells = tuple([_joined(outputs, i, first, rows) for i in self._positions])
        if request_id:
            return b"%s,%s" % (self._with_id(request_id), template % cells)
        return b"%s,%s" % (self._start, template % cells)

    def chosen(
        self, outputs: BatchOutputs, first: int, rows: int, request_id: str, wanted: tuple[WantedOutput, ...]
    ) -> tuple[bytes, bytes]:
        """The outputs asked for, in that order: the JSON part and the binary part."""
        blobs = [outputs.raw(position, first, rows) for position, is_binary in wanted if is_binary]
        key = (rows, wanted, *map(len, blobs))
        entries = outputs.templates.get(key)
        if entries is None:
            entries = self._entries(outputs, first, rows, wanted, blobs)
            if len(blobs) == len(wanted):
                # No values in it: the same for all calls of this batch with as many rows.
                outputs.remember(key, entries)
        head = self._with_id(request_id) if request_id else self._start
        return b'%s,"outputs":[%s]}' % (head, entries), b"".join(blobs)

    def _entries(
        self,
        outputs: BatchOutputs,
        first: int,
        rows: int,
        wanted: tuple[WantedOutput, ...],
        blobs: list[bytes],
    ) -> bytes:
        entries = []
        sizes = iter(map(len, blobs))
        for position, is_binary in wanted:
            spec = self._signature.outputs[position]
            entry = _entry(spec, outputs.slice(position, first, rows).shape)
            if is_binary:
                entries.append(b'%s,"parameters":{"binary_data_size":%d}}' % (entry, next(sizes)))
            else:
                entries.append(b'%s,"data":[%s]}' % (entry, _joined(outputs, position, first, rows)))
        return b",".join(entries)

    def _with_id(self, request_id: str) -> bytes:
        return b'%s,"id":%s' % (self._start, orjson.dumps(request_id))

    def _template(self, outputs: BatchOutputs, rows: int) -> bytes:
        """The response but for its numbers: the same for every batch with these shapes."""
        shapes = (rows, *[array.shape[outputs.is_batched :] for array in outputs.arrays])
        template = self._templates.get(shapes)
        if template is None:
            template = self._made_template(outputs, rows)
            if len(self._templates) < _REMEMBERED:
                self._templates[shapes] = template
        return template

    def _made_template(self, outputs: BatchOutputs, rows: int) -> bytes:
        entries = []
        for spec, array in zip(self._signature.outputs, outputs.arrays, strict=True):
            shape = (rows, *array.shape[1:]) if outputs.is_batched else array.shape
            entries.append(b'%s,"data":[%%s]}' % _entry(spec, shape).replace(b"%", b"%%"))
        return b'"outputs":[%s]}' % b",".join(entries)


def _entry(spec: TensorSpec, shape: tuple[int, ...]) -> bytes:
    fields: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype.name, "shape": list(shape)}
    return orjson.dumps(fields)[:-1]


def _joined(outputs: BatchOutputs, position: int, first: int, rows: int) -> bytes:
    printed = outputs.json_rows(position)
    if not outputs.is_batched or not outputs.arrays[position].size:
        # Rows without elements have nothing between them either.
        return printed[0] if printed else b""
    return b",".join(printed[first : first + rows])

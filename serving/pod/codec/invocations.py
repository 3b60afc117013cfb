"""MLflow's scoring protocol to tensors and back, by what the bundle's manifest says of the logged model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from model_store.engines.errors import ModelFault, Refused
from model_store.engines.signature import Shape, Signature, TensorSpec
from serving.pod.call import BatchOutputs, Data
from serving.pod.codec.frames import Frame, Sent, frame, read_csv, read_json
from serving.pod.codec.typed import column_array, tensor_array

Json = dict[str, Any]
Array = np.ndarray[Any, Any]

_JSON, _CSV = b"application/json", b"text/csv"
_MOST_NAMED = 20


class InvocationInputs(NamedTuple):
    """What a request asks of the model, in the signature's order."""

    data: list[Data]
    shapes: list[Shape]


class Invocations:
    """One model's: `read` a body, `write` the answer."""

    def __init__(self, signature: Signature, told: Mapping[str, Any]) -> None:
        self._signature, self._told = signature, told
        self._columns: list[Json] = list(told.get("columns", ()))
        self._of_tensor = {
            spec.name: [column for column in self._columns if column["tensor"] == spec.name]
            for spec in signature.inputs
        }
        self._positions = {spec.name: place for place, spec in enumerate(signature.outputs)}
        # Text may hold commas of its own.
        are_numbers = all(spec.datatype.size for spec in signature.inputs)
        self._most = sum(spec.max_json_elements for spec in signature.inputs) if are_numbers else 0

    def read(self, body: bytes, content_type: bytes) -> InvocationInputs:
        """Raises `Refused` in the words of the columns."""
        if not self._columns or not self._signature.is_batched:
            raise Refused(
                "this bundle does not say how MLflow's clients ask its model",
                remedy="release the version again, or ask .../infer",
                status=404,
            )
        if self._told["answer"]["form"] == "none":
            raise Refused(
                "what this model's `predict` answers in MLflow is none of the outputs that are served",
                remedy="ask .../infer",
                status=404,
            )
        self._expect_not_too_large(body)
        sent = self._sent(body, content_type)
        if isinstance(sent, Sent) and self._told["takes"] == "tensors":
            arrays = self._arrays(sent)
        else:
            arrays = self._stacked(sent if isinstance(sent, Frame) else frame(sent))
        return self._asked(arrays)

    def _sent(self, body: bytes, content_type: bytes) -> Frame | Sent:
        kind = content_type.split(b";")[0].strip().lower()
        if kind == _CSV:
            return read_csv(body)
        if kind in (_JSON, b""):
            return read_json(body)
        raise Refused(
            f"content-type {kind[:60].decode(errors='replace')} is not taken here",
            remedy="send application/json or text/csv",
            status=415,
        )

    def _expect_not_too_large(self, body: bytes) -> None:
        """Before it is read: of numbers, there is a comma between any two."""
        if 0 < self._most < body.count(b",") // 2:
            spec = self._signature.inputs[0]
            rows = body.count(b",") // max(sum(each.row_elements for each in self._signature.inputs), 1)
            raise spec.too_large((rows, *spec.shape[1:]), as_json=True)

    def _asked(self, arrays: Mapping[str, Array]) -> InvocationInputs:
        data: list[Data] = []
        shapes = []
        for spec in self._signature.inputs:
            array = arrays[spec.name]
            shape, count = spec.accept(array.shape)
            if count > spec.max_json_elements:
                raise spec.too_large(shape, as_json=True)
            data.append(array.ravel().tolist() if array.dtype == object else array.tobytes())
            shapes.append(shape)
        if len({shape[0] for shape in shapes}) > 1:
            raise Refused(
                f"inputs have different numbers of rows: {[shape[0] for shape in shapes]}",
                remedy="give every input the same first dimension",
            )
        return InvocationInputs(data, shapes)

    # Tables

    def _stacked(self, table: Frame) -> dict[str, Array]:
        found = self._found(table)
        tensors = {}
        for spec in self._signature.inputs:
            columns = self._of_tensor[spec.name]
            parts = [
                column_array(spec.datatype, column, found[column["name"]], table.is_text)
                for column in columns
            ]
            if len(parts) > 1 or columns[0]["place"] is not None:
                tensors[spec.name] = np.stack(parts, axis=1)
            elif parts[0].ndim < len(spec.shape):
                tensors[spec.name] = parts[0].reshape(table.rows, *[1] * (len(spec.shape) - 1))
            else:
                tensors[spec.name] = parts[0]
        return tensors

    def _found(self, table: Frame) -> dict[str, Sequence[Any]]:
        """The model's columns, by name; others are left out, as MLflow leaves them."""
        if not table.is_named or len(table.columns) == len(self._columns) == 1:
            return self._by_place(table)
        names = {str(name): values for name, values in table.columns.items()}
        missing = [c["name"] for c in self._columns if c["required"] and c["name"] not in names]
        if missing:
            raise Refused(
                f"the model takes columns that were not sent: {_listed(missing)}",
                remedy=f"send the columns {_listed([c['name'] for c in self._columns])}",
            )
        nothing = [None] * table.rows
        return {column["name"]: names.get(column["name"], nothing) for column in self._columns}

    def _by_place(self, table: Frame) -> dict[str, Sequence[Any]]:
        if table.rows and len(table.columns) != len(self._columns):
            raise Refused(
                f"{len(table.columns)} columns without names, and the model takes {len(self._columns)}",
                remedy=f"send, in this order or by name: {_listed([c['name'] for c in self._columns])}",
            )
        sent = list(table.columns.values()) or [[]] * len(self._columns)
        return {column["name"]: values for column, values in zip(self._columns, sent, strict=True)}

    # Arrays

    def _arrays(self, sent: Sent) -> dict[str, Array]:
        specs, content = self._signature.inputs, sent.content
        if sent.form.startswith("dataframe"):
            content = _by_tensor(specs, frame(sent))
        elif sent.form == "instances" and content and type(content) is list and type(content[0]) is dict:
            content = dict(frame(sent).columns)
        if type(content) is not dict and len(specs) == 1:
            content = {specs[0].name: content}
        if type(content) is not dict or (missing := [s.name for s in specs if s.name not in content]):
            told = f", and {_listed(missing)} is not there" if type(content) is dict else ""
            raise Refused(
                f"the model takes {_listed([spec.name for spec in specs])}{told}",
                remedy="send an object with an array for each",
            )
        return {spec.name: tensor_array(spec, content[spec.name]) for spec in specs}

    # The answer

    def write(self, outputs: BatchOutputs, first: int, rows: int) -> bytes:
        """`{"predictions": ...}`, as MLflow's own server writes it."""
        told = self._told["answer"]
        values = {name: _values(outputs, self._positions[name], first, rows) for name in _named(told)}
        match told["form"]:
            case "values":
                said: Any = _formed(values[told["output"]], told, rows).tolist()
            case "numbered":
                listed = values[told["output"]].reshape(rows, -1).tolist()
                said = [{str(place): value for place, value in enumerate(row)} for row in listed]
            case "columns":
                said = {name: array.tolist() for name, array in values.items()}
            case "rows":
                said = [list(row) for row in zip(*map(_cells, values.values()), strict=True)]
            case _:
                cells = zip(*map(_cells, values.values()), strict=True)
                said = [dict(zip(values, row, strict=True)) for row in cells]
        is_finite = all(a.dtype.kind != "f" or bool(np.isfinite(a).all()) for a in values.values())
        # orjson would make null of NaN, and MLflow writes NaN.
        return (
            orjson.dumps({"predictions": said}) if is_finite else json.dumps({"predictions": said}).encode()
        )


def _named(told: Mapping[str, Any]) -> list[str]:
    return [told["output"]] if "output" in told else list(told["outputs"])


def _values(outputs: BatchOutputs, position: int, first: int, rows: int) -> Array:
    array = outputs.slice(position, first, rows)
    if array.dtype != object:
        return array
    texts = np.empty(array.size, dtype=object)
    try:
        texts[:] = [value.decode() if isinstance(value, bytes) else value for value in array.ravel()]
    except UnicodeDecodeError as error:
        raise ModelFault(
            "the model gave bytes that are not UTF-8", remedy="ask .../infer for them"
        ) from error
    return texts.reshape(array.shape)


def _formed(array: Array, told: Mapping[str, Any], rows: int) -> Array:
    """One column of it, in the shape and kind of the original's."""
    if told["column"] is not None:
        array = array[:, told["column"]]
    if not told["kind"]:
        return array
    array = array.reshape(rows, *told["shape"])
    casts = {"b": np.bool_, "f": np.float64}
    wanted = casts.get(told["kind"])
    return array.astype(wanted) if wanted is not None and array.dtype.kind in "iu" else array


def _cells(array: Array) -> list[Any]:
    """Of each row: one value by itself, several as a list."""
    cells: list[Any] = (array.reshape(len(array)) if array.size == len(array) else array).tolist()
    return cells


def _by_tensor(specs: Sequence[TensorSpec], table: Frame) -> Any:
    """A table for a model of arrays: all columns side by side, or those named after its inputs."""
    if len(specs) == 1 and specs[0].name not in table.columns:
        return list(map(list, zip(*table.columns.values(), strict=True)))
    return {name: list(values) for name, values in table.columns.items()}


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more

"""What a model that is served as it is takes: its signature's columns and arrays as named tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model_store.export.base import Columns, NotExportable
from model_store.export.mlmodel import DATATYPES, Field, LoggedModel
from model_store.export.signature import DEFAULT_INPUT
from model_store.release_spec import Data
from model_store.types import Datatype, TensorSpec

Json = dict[str, Any]

_INFER = "log it with signature=mlflow.models.infer_signature(inputs, outputs), of the rows that it takes"


@dataclass(frozen=True, slots=True)
class Takes:
    """`inputs`: the tensors that clients send. `columns`: which data columns fill them, None where the data
    file decides. `serves`: the same for the model's own process, which makes a table or arrays of them.
    """

    inputs: tuple[TensorSpec, ...]
    columns: Columns | None
    serves: Json


def takes(logged: LoggedModel, data: Data) -> Takes:
    """Raises `Permanent` (NotExportable): no signature, or one of a type that no tensor has."""
    if logged.signature is None:
        raise NotExportable("the model has no signature, so nobody knows what it takes", remedy=_INFER)
    fields = logged.signature.inputs
    outputs = [field.name for field in logged.signature.outputs if field.name]
    if any(field.shape is not None for field in fields):
        return _tensors(fields, outputs, data)
    how = "list" if _is_list_of_rows(logged) else "table"
    return _table(fields, outputs, data, how)


def _is_list_of_rows(logged: LoggedModel) -> bool:
    """A `predict(self, rows: list[str])`, whose type hints MLflow holds against what it is given."""
    written = logged.written.get("signature") or {}
    return bool(logged.written.get("type_hint") or written.get("is_signature_from_type_hint"))


def _tensors(fields: Sequence[Field], outputs: list[str], data: Data) -> Takes:
    inputs = tuple(_tensor(field) for field in fields)
    columns = [
        {"name": field.name, "tensor": spec.name, "type": spec.datatype}
        for field, spec in zip(fields, inputs, strict=True)
    ]
    return Takes(inputs, data.inputs, {"takes": "tensors", "columns": columns, "outputs": outputs})


def _tensor(field: Field) -> TensorSpec:
    if field.datatype is None or not field.shape or field.shape[0] != -1:
        raise NotExportable(
            f"signature input `{field.name}` {field.written}{list(field.shape or ())} is not a batch of rows",
            remedy="infer the signature from an array whose first dimension are the rows",
        )
    return TensorSpec(field.name or DEFAULT_INPUT, field.datatype, field.shape)


def _table(fields: Sequence[Field], outputs: list[str], data: Data, how: str) -> Takes:
    _refuse_label([field.name for field in fields], data)
    nullable = {name for name, column in data.columns.items() if column.nullable}
    inputs = tuple(_column(field) for field in fields)
    columns = [
        {
            "name": field.name,
            "tensor": spec.name,
            "type": field.written,
            "is_list": bool(field.items),
            "nullable": spec.datatype == "BYTES" and spec.name in nullable,
        }
        for field, spec in zip(fields, inputs, strict=True)
    ]
    named: Columns | None = (
        {spec.name: spec.name for spec in inputs} if all(field.name for field in fields) else None
    )
    fed: Columns | None = data.inputs or named
    return Takes(inputs, fed, {"takes": how, "columns": columns, "outputs": outputs})


def _column(field: Field) -> TensorSpec:
    """One value a row; text also for times, and lists of one length as they are."""
    written = field.items or field.written
    datatype: Datatype | None = "BYTES" if written == "datetime" else DATATYPES.get(written)
    if datatype is None:
        raise NotExportable(
            f"signature input `{field.name}` is {field.written}, which no tensor holds",
            remedy="let the model take it as text (JSON, or base64 for bytes), and log that signature",
        )
    return TensorSpec(field.name or DEFAULT_INPUT, datatype, (-1, -1) if field.items else (-1, 1))


def _refuse_label(names: Sequence[str], data: Data) -> None:
    if leaked := [name for name in data.labels if name in names]:
        raise NotExportable(
            f"the model takes the column `{leaked[0]}`, which is the spec's label: it is told the answer",
            remedy="train it without that column, or correct data.label",
        )

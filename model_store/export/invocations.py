"""How a bundle answers `POST .../invocations`, MLflow's own scoring protocol: `invocations` in its manifest.

    {"takes": "table",                      # or "tensors"
     "columns": [{"name": "age", "tensor": "input", "place": 0, "type": "double", "required": true,
                  "nullable": false, "is_list": false}, ...],
     "answer": {"form": "values", "output": "label", "kind": "i", "shape": []}}

`columns`: what a DataFrame of MLflow's has, by the model's signature, and where each goes. `place`: which
column of the tensor, None where it has the tensor to itself. `answer`: what `predict` of the logged model
answers, made of the served outputs; its form is "none" where no output holds that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from model_store.export.mlmodel import Field, LoggedModel
from model_store.release_spec import Data
from model_store.types import TensorSpec

Json = dict[str, Any]

# `predict` answers something that is none of the served outputs.
NOT_SERVED: Json = {"form": "none"}


def invocations(
    logged: LoggedModel,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    columns: Mapping[str, tuple[str, ...] | str],
    answer: Json | None,
    data: Data,
) -> Json:
    """The manifest's section. `columns`: which data columns fill each input, where no signature names any.
    `answer`: of a flavour that says it; else all outputs by name, as MLflow's ONNX flavour answers.
    """
    fields = logged.signature.inputs if logged.signature else ()
    is_table = bool(fields) and all(field.shape is None for field in fields)
    is_flat = all(len(spec.shape) <= 2 for spec in inputs)
    takes = "table" if is_table or (not fields and is_flat) else "tensors"
    listed = (
        _by_tensor(inputs) if takes == "tensors" else _by_column(fields if is_table else (), inputs, columns)
    )
    for column in listed:
        column["nullable"] = column["name"] in data.columns and data.columns[column["name"]].nullable
    return {"takes": takes, "columns": listed, "answer": answer or _all_of(outputs, takes)}


def answered_values(output: str, kind: str, shape: Sequence[int], *, column: int | None = None) -> Json:
    """An array or a list: of numpy's `kind`, each row of this shape. `column`: only this one of it."""
    return {"form": "values", "output": output, "kind": kind, "shape": list(shape), "column": column}


def answered_numbered(output: str) -> Json:
    """A DataFrame made of an array, whose columns have numbers for names."""
    return {"form": "numbered", "output": output}


def _all_of(outputs: Sequence[TensorSpec], takes: str) -> Json:
    form = "records" if takes == "table" else "columns"
    return {"form": form, "outputs": [spec.name for spec in outputs]}


def _by_tensor(inputs: Sequence[TensorSpec]) -> list[Json]:
    return [_column(spec.name, spec.name, None, spec.datatype) for spec in inputs]


def _by_column(
    fields: Sequence[Field], inputs: Sequence[TensorSpec], columns: Mapping[str, tuple[str, ...] | str]
) -> list[Json]:
    by_name = {field.name: field for field in fields}
    found = []
    for spec in inputs:
        filled = columns.get(spec.name, spec.name)
        names = _names(spec, filled, by_name)
        # Lists of numbers fill a tensor by themselves.
        is_whole = isinstance(filled, str) or len(names) == 1
        for place, name in enumerate(names):
            field = by_name.get(name)
            column = _column(
                name, spec.name, None if is_whole else place, field.written if field else spec.datatype
            )
            column |= {
                "required": field.is_required if field else True,
                "is_list": len(spec.shape) == 2 and spec.shape[1] != 1 and is_whole,
            }
            found.append(column)
    order = {field.name: place for place, field in enumerate(fields)}
    return sorted(found, key=lambda column: order.get(column["name"], 0))


def _names(spec: TensorSpec, filled: tuple[str, ...] | str, by_name: Mapping[str, Field]) -> list[str]:
    """The signature's names, which are what clients know; the data file may have others."""
    names = [filled] if isinstance(filled, str) else list(filled)
    if len(names) == 1 and spec.name in by_name:
        return [spec.name]
    is_renamed = len(names) == len(by_name) and not set(names) <= set(by_name)
    return [name or names[0] for name in by_name] if is_renamed else names


def _column(name: str, tensor: str, place: int | None, written: str) -> Json:
    return {
        "name": name,
        "tensor": tensor,
        "place": place,
        "type": written,
        "required": True,
        "is_list": False,
    }

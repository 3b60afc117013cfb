"""Values as JSON and CSV have them, in a model's datatypes. Raises `Refused` in the column's words.

They are kept if the datatype holds the same values: whole numbers in a column of floats are fine, 1.5 in one
of whole numbers is refused (MLflow would cut it off). A missing number is NaN, a missing text is empty where
the spec has the column nullable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from model_store.engines.datatypes import Datatype
from model_store.engines.errors import Refused
from model_store.engines.signature import TensorSpec

Json = dict[str, Any]
Array = np.ndarray[Any, Any]


def column_array(datatype: Datatype, column: Json, values: Sequence[Any], is_text: bool) -> Array:
    """One column, [N] or of lists [N, M]. `is_text`: it was read from CSV."""
    if not datatype.size:
        return _texts(column, values)
    if is_text:
        values = [_parsed(column["name"], datatype, value) for value in values]
    if column["is_list"] and any(type(value) is not list for value in values):
        raise Refused(f"column `{column['name']}` has a value that is no list", remedy="send a list a row")
    return _numbers(f"column `{column['name']}`", datatype, values)


def _parsed(name: str, datatype: Datatype, text: str) -> Any:
    """A number of a CSV file."""
    if not text:
        return None
    if datatype.name == "BOOL" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text) if datatype.is_float else int(text)
    except ValueError as error:
        raise Refused(f"column `{name}`: {text[:60]!r} is no number", remedy="send a number") from error


def tensor_array(spec: TensorSpec, values: Any) -> Array:
    """Nested lists as the tensor's datatype has them."""
    what = f"input `{spec.name}`"
    if type(values) is not list:
        raise Refused(f"{what} is no array", remedy="send it as nested lists")
    array = _numbers(what, spec.datatype, values) if spec.datatype.size else _nested_texts(what, values)
    # One number a row, where the model wants rows of one.
    return array.reshape(-1, 1) if array.ndim == 1 and spec.shape == (-1, 1) else array


def _numbers(what: str, datatype: Datatype, values: Sequence[Any]) -> Array:
    try:
        array = np.array(values)
        if array.dtype == object and datatype.is_float:
            array = np.array(_without_gaps(values), np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise Refused(
            f"{what} is no array of numbers: {str(error)[:200]}", remedy="send numbers, in rows of one length"
        ) from error
    if not array.size:
        return array.astype(datatype.dtype)
    if array.dtype.kind not in "biuf":
        has_gaps = any(value is None for value in np.ravel(np.array(values, dtype=object)))
        why = "has a missing value, which only columns of floats hold" if has_gaps else "holds no numbers"
        raise Refused(f"{what} {why}", remedy=f"send {datatype.name} values")
    return _cast(what, datatype, array)


def _without_gaps(values: Any) -> Any:
    if isinstance(values, list | tuple):
        return [_without_gaps(value) for value in values]
    return np.nan if values is None else values


def _cast(what: str, datatype: Datatype, array: Array) -> Array:
    if datatype.is_float:
        return array.astype(datatype.dtype)
    with np.errstate(invalid="ignore"):
        cast = array.astype(datatype.dtype)
    if not np.array_equal(cast, array):
        raise Refused(
            f"{what} has values that {datatype.name} does not hold", remedy=f"send {datatype.name} values"
        )
    return cast


def _texts(column: Json, values: Sequence[Any]) -> Array:
    if column["is_list"]:
        return _nested_texts(f"column `{column['name']}`", list(values))
    found = np.empty(len(values), dtype=object)
    found[:] = [_text(column, place, value) for place, value in enumerate(values)]
    return found


def _text(column: Json, place: int, value: Any) -> bytes:
    name = column["name"]
    if value is None and column["nullable"]:
        return b""
    if type(value) is str:
        return value.encode()
    if column["type"] == "datetime" and type(value) is int:
        # As pandas reads a bare number: nanoseconds since 1970.
        return str(np.datetime64(value, "ns")).encode()
    if value is None:
        raise Refused(
            f"column `{name}` is missing in row {place}",
            remedy=f"send it; where it may be missing, the spec says data.columns.{name}.nullable: true",
        )
    raise Refused(
        f"column `{name}` has {type(value).__name__} in row {place}",
        remedy="send text" + (" as 2026-01-31T12:00:00" if column["type"] == "datetime" else ""),
    )


def _nested_texts(what: str, values: Any) -> Array:
    array = np.array(values, dtype=object)
    if not all(type(value) is str for value in array.ravel()):
        raise Refused(
            f"{what} holds something else than text, or rows of different lengths", remedy="send text"
        )
    flat = np.empty(array.size, dtype=object)
    flat[:] = [value.encode() for value in array.ravel()]
    return flat.reshape(array.shape)

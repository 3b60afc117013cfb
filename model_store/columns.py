"""Arrow columns as tensors, labels and slices, or a sentence that says why not."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from model_store.release_spec import Data
from model_store.types import Datatype, TensorSpec

if TYPE_CHECKING:
    import pyarrow as pa

Array = np.ndarray[Any, Any]

NUMPY: dict[Datatype, str] = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object",
}  # fmt: skip
MISSING_SLICE = "(missing)"
# Of a column's standard deviation: rounding that adds so much noise, or more, is no longer the same column.
_TOLERATED_LOSS = 0.05
_FLOAT64_NOISE = 1e-14
_DECIMAL_COMMA = re.compile(r"[-+]?[\d.]*,\d+(?:[eE][-+]?\d+)?")


class UnusableColumn(ValueError):  # noqa: N818 - a column, not an error, is unusable
    """What is wrong with a column, before anyone says in which file."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


def to_tensor(
    table: pa.Table, spec: TensorSpec, columns: tuple[str, ...] | str, *, nullable: Collection[str] = ()
) -> Array:
    """[N, ...] in the datatype and shape of `spec`. Only `nullable` columns of numbers may hold NaN."""
    if isinstance(columns, str):
        array = _cells(table, columns, spec, columns in nullable)
    else:
        cells = [_cells(table, name, spec, name in nullable) for name in columns]
        if not cells:
            raise UnusableColumn(
                f"no column is left for input {spec}", "correct data.inputs, slices or ignore"
            )
        array = np.stack(cells, axis=1)
    return _shaped(array, spec, columns)


def label_values(table: pa.Table, data: Data) -> Array:
    """What the rows really are, in the words of the file: [N] int64, float64, bool or text; of a multilabel
    task [N, L] int64, 0 or 1. What the words mean to the model is for the gates to find out.
    """
    if isinstance(data.label, str):
        return _labels(table, data.label)
    columns = [_indicator(_labels(table, name), name) for name in data.label]
    return np.stack(columns, axis=1)


def group_numbers(table: pa.Table, name: str) -> Array:
    """[N] int64: rows of one number are ranked together."""
    values = np.array(_column(table, name, "the groups").to_pylist(), dtype=object)
    if empty := sum(value is None for value in values):
        raise UnusableColumn(
            f"{empty} of {len(values)} rows belong to no group `{name}`", "fill or drop them"
        )
    return np.unique(values.astype(str), return_inverse=True)[1].astype(np.int64)


def _labels(table: pa.Table, name: str) -> Array:
    column = _column(table, name, "the label").combine_chunks()
    if empty := column.null_count:
        raise UnusableColumn(f"{empty} of {len(column)} rows have no label `{name}`", "label or drop them")
    kind = _kind(column)
    if kind not in ("text", "number"):
        raise UnusableColumn(f"the label `{name}` is {kind}", "a label is text, a number, or true and false")
    values: Array = column.to_numpy(zero_copy_only=False)
    if kind == "text" or values.dtype.kind == "b":
        return values
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    if not np.isfinite(values).all():
        raise UnusableColumn(f"the label `{name}` holds NaN or infinity", "label or drop these rows")
    is_whole = bool((values == np.floor(values)).all())
    # A column of whole numbers that once had a gap is float in pandas.
    return values.astype(np.int64) if is_whole and np.abs(values).max() < 2**53 else values.astype(np.float64)


def _indicator(values: Array, name: str) -> Array:
    if values.dtype.kind not in "bi" or not np.isin(values, (0, 1)).all():
        present = ", ".join(map(repr, sorted({str(value) for value in values[:1000].tolist()})[:10]))
        wrong = f"the label `{name}` holds {present}"
        raise UnusableColumn(wrong, "each label of a multilabel task is a column of 0 and 1")
    return values.astype(np.int64)


def slice_values(table: pa.Table, name: str, *, most: int) -> Array:
    """[N] text; missing values are a slice of their own. At most `most` different ones."""
    values = _column(table, name, "a slice").to_pylist()
    if (count := len(set(map(str, values)))) > most:
        raise UnusableColumn(
            f"the slice column `{name}` holds {count:,} different values, and the limit is {most:,}",
            "slice by something coarser (a region, not a postcode; bins, not an amount), put the column under"
            " data.ignore, or raise data.max_slice_values",
        )
    return np.array([MISSING_SLICE if value is None else str(value) for value in values], dtype=object)


def _column(table: pa.Table, name: str, purpose: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        known = ", ".join(table.column_names[:60])
        raise UnusableColumn(f"has no column `{name}` ({purpose})", f"the columns are: {known}")
    return table.column(name)


def _cells(table: pa.Table, name: str, spec: TensorSpec, nullable: bool) -> Array:
    """One column: [N], or [N, L] when its values are lists of one length."""
    from pyarrow import compute

    column = _column(table, name, f"for input {spec.name}").combine_chunks()
    if not _is_list(column):
        return _typed(column, name, spec, nullable)
    if column.null_count:
        raise UnusableColumn(f"column `{name}` has {column.null_count} missing values", "fill or drop them")
    lengths = compute.list_value_length(column).to_numpy(zero_copy_only=False)
    if lengths.min() != lengths.max() or lengths.min() < 1:
        wrong = f"column `{name}` has lists of {lengths.min()} to {lengths.max()} values"
        raise UnusableColumn(wrong, "pad or cut them to one length")
    return _typed(column.flatten(), name, spec, nullable).reshape(len(lengths), -1)


def _is_list(column: pa.Array) -> bool:
    return str(column.type).partition("<")[0] in ("list", "large_list", "fixed_size_list")


def _typed(column: pa.Array, name: str, spec: TensorSpec, nullable: bool) -> Array:
    """Values in the tensor's datatype, exactly: nothing wraps, overflows or turns into NaN on the way."""
    wanted = np.dtype(NUMPY[spec.datatype])
    if _kind(column) != ("text" if spec.datatype == "BYTES" else "number"):
        example = next((value for value in column.to_pylist()[:1000] if value is not None), None)
        raise UnusableColumn(
            f"column `{name}` holds {column.type} like {example!r}, input {spec.name} takes {spec.datatype}",
            _remedy_for_text(example),
        )
    if column.null_count and not (nullable and wanted.kind == "f"):
        raise UnusableColumn(
            f"column `{name}` has {column.null_count} missing values", missing_remedy(name, wanted)
        )
    values: Array = column.to_numpy(zero_copy_only=False)
    return values if spec.datatype == "BYTES" else _cast(values, wanted, name, _allows(nullable))


def missing_remedy(name: str, wanted: np.dtype[Any] | None = None) -> str:
    """Where a model takes missing values, two places must know of it: the check of the rows, and the pods."""
    if wanted is not None and wanted.kind == "O":
        return (
            "fill or drop them: ONNX has no missing text. A model served as it is (source.flavor: pyfunc)"
            f" takes it: set data.columns.{name}.nullable: true"
        )
    if wanted is not None and wanted.kind != "f":
        return f"fill or drop them: a tensor of {wanted} has no missing values"
    return (
        f"if the model takes missing values, set data.columns.{name}.nullable: true, and"
        " serving.finite_inputs: false, or pods refuse NaN; else fill or drop them"
    )


def _remedy_for_text(example: object) -> str:
    if isinstance(example, str) and _DECIMAL_COMMA.fullmatch(example.strip()):
        return "write numbers with a decimal point (pandas: to_csv(path, decimal='.'))"
    return "put the column under data.slices or data.ignore, or encode it as the model was trained"


def _kind(column: pa.Array) -> str:
    """`text`, `number` (booleans count as 0 and 1), or Arrow's own name for what is neither."""
    from pyarrow import types

    if types.is_string(column.type) or types.is_large_string(column.type):
        return "text"
    is_number = types.is_integer(column.type) or types.is_floating(column.type)
    return "number" if is_number or types.is_boolean(column.type) else str(column.type)


def _allows(nullable: bool) -> Callable[[Array], Array]:
    """Which of the numbers are fine: the finite ones, and NaN where a column may be empty."""
    return (lambda values: ~np.isinf(values)) if nullable else np.isfinite


def _cast(values: Array, wanted: np.dtype[Any], name: str, is_fine: Callable[[Array], Array]) -> Array:
    if values.dtype.kind == "f" and not (fine := is_fine(values)).all():
        wrong = f"column `{name}` has {np.count_nonzero(~fine)} values that are NaN or infinite"
        raise UnusableColumn(wrong, missing_remedy(name, wanted))
    with np.errstate(over="ignore"):
        cast = values.astype(wanted)
    exact = not np.isinf(cast).any() if wanted.kind == "f" else np.array_equal(cast, values)
    if not exact:
        raise UnusableColumn(
            f"column `{name}` has values beyond {wanted}", "scale them, or correct data.inputs"
        )
    if wanted.kind == "f":
        _refuse_rounded_away(values, cast, name)
    return cast


def _refuse_rounded_away(values: Array, cast: Array, name: str) -> None:
    """Raises Unusable when the cast loses what tells the rows apart: seconds since 1970 as float32, say."""
    known = ~np.isnan(cast)
    if not known.any() or (values.dtype.kind == "f" and cast.dtype.itemsize >= values.dtype.itemsize):
        return
    # float64 holds no whole number beyond 2**53.
    exact: Array = values[known].astype(np.float64 if values.dtype.kind == "f" else np.longdouble)
    spread, lost = float(exact.std()), _root_mean_square(exact - cast[known])
    noise = _FLOAT64_NOISE * float(np.abs(exact).max()) if values.dtype.kind == "f" else 0.0
    if lost <= _TOLERATED_LOSS * spread or spread <= noise:
        return
    raise UnusableColumn(
        f"column `{name}` differs between rows by {spread:.3g} or so, at values like {exact[0]:.10g}, where"
        f" {cast.dtype} has steps of {np.spacing(np.abs(cast[known][0])):.3g}",
        "subtract an offset from it before the model, or give the model a float64 or int64 input",
    )


def _root_mean_square(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _shaped(array: Array, spec: TensorSpec, columns: tuple[str, ...] | str) -> Array:
    """`array` in the shape of `spec`; one free dimension per row takes what is there."""
    try:
        return array.reshape(len(array), *spec.shape[1:])
    except ValueError as error:
        given = (
            f"`{columns}`" if isinstance(columns, str) else f"{len(columns)} columns ({', '.join(columns)})"
        )
        wrong = f"{given} with {array[0].size} values a row do not fill input {spec}"
        raise UnusableColumn(wrong, "correct data.inputs, data.slices or data.ignore") from error

"""Labelled rows as the tensors a model takes: what gates and calibration read.

`read_dataset` refuses whatever would make a gate judge the data instead of the model: missing or empty
files, rows without labels, columns that are not there, text where numbers belong, NaN.

Times and gaps in text travel as text to models that are served as they are: no tensor holds them. ONNX has
neither, so for exported models such columns are refused where they are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model_store.columns import UnusableColumn, group_numbers, label_values, slice_values, to_tensor
from model_store.errors import Permanent
from model_store.release_spec import Data
from model_store.tables import read_table
from model_store.types import TensorSpec

if TYPE_CHECKING:
    import pyarrow as pa


Array = np.ndarray[Any, Any]
Columns = Mapping[str, tuple[str, ...] | str]
"""Which columns fill each tensor: several scalar ones stacked in order, or one."""


class UnusableData(Permanent):
    """The file cannot be what the spec says it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """`N` rows of one file.

    `inputs`: by tensor name, [N, ...] in the model's datatype; `columns`: which columns they were made from.
    `labels`: [N] int64, float64, bool or text as the file holds them, [N, L] of 0 and 1 for a list of
    columns, None if read without them; `groups`: [N] int64, rows of one number are ranked together, None
    without `data.group`. `slices`: by column, [N] text. `row_hashes`: [N] uint64 of the inputs alone, equal
    for equal rows of any two files read for the same model. `digest`: sha256 of the file.
    """

    path: Path
    digest: str
    inputs: dict[str, Array]
    columns: Columns
    labels: Array | None
    groups: Array | None
    slices: dict[str, Array]
    row_hashes: Array

    def __len__(self) -> int:
        return len(self.row_hashes)

    def take(self, rows: Array) -> Dataset:
        """The rows at these indices, or where this mask is true, in that order. `digest` stays the file's."""
        return replace(
            self,
            inputs={name: array[rows] for name, array in self.inputs.items()},
            labels=None if self.labels is None else self.labels[rows],
            groups=None if self.groups is None else self.groups[rows],
            slices={name: array[rows] for name, array in self.slices.items()},
            row_hashes=self.row_hashes[rows],
        )


def read_dataset(
    path: Path,
    data: Data,
    inputs: Iterable[TensorSpec],
    *,
    columns: Columns | None = None,
    labelled: bool = True,
    as_logged: bool = False,
) -> Dataset:
    """Read `path` as rows for a model that takes `inputs`.

    `columns` (of `ExportedModel`) says which columns fill each tensor; without it the spec does. Calibration
    rows need no labels: `labelled=False`. `as_logged`: the model is served as it is, and takes times and gaps
    in text (`times_as_text`). Raises `Permanent` naming the file, the column, and what exists.
    """
    table, digest = read_table(path)
    wanted = tuple(inputs)
    bound = bind(data, wanted, table.column_names) if columns is None else columns
    _refuse_other_inputs(bound, wanted)
    if as_logged:
        table = times_as_text(table, _names(bound), nullable=_nullable(data))
    try:
        tensors = {
            spec.name: to_tensor(table, spec, bound[spec.name], nullable=_nullable(data)) for spec in wanted
        }
        labels = label_values(table, data) if labelled else None
        groups = group_numbers(table, data.group) if labelled and data.group else None
        most = data.max_slice_values
        slices = {name: slice_values(table, name, most=most) for name in data.slices} if labelled else {}
    except UnusableColumn as error:
        raise UnusableData(f"{path}: {error}", remedy=error.remedy) from error
    return Dataset(path, digest, tensors, bound, labels, groups, slices, hash_rows(tensors))


def bind(data: Data, inputs: tuple[TensorSpec, ...], table: Iterable[str]) -> Columns:
    """Which columns fill each input: as the spec says, or else all that are left for the one input, or the
    column of the same name for each of several. Raises `Permanent` listing the model's inputs."""
    names = [spec.name for spec in inputs]
    if data.inputs is not None:
        return data.inputs
    left = tuple(name for name in table if name not in data.spoken_for)
    if len(names) == 1:
        return {names[0]: left}
    if not set(names) <= set(left):
        raise UnusableData("data.inputs must say which columns fill which input", remedy=_takes(inputs))
    return {name: name for name in names}


def _refuse_other_inputs(bound: Columns, inputs: tuple[TensorSpec, ...]) -> None:
    if set(bound) != {spec.name for spec in inputs}:
        raise UnusableData(f"data.inputs names {sorted(bound)}", remedy=_takes(inputs))


def _takes(inputs: tuple[TensorSpec, ...]) -> str:
    return f"the model takes: {'; '.join(map(str, inputs))}"


def hash_rows(tensors: Mapping[str, Array]) -> Array:
    """[N] uint64: BLAKE2b over each row's values in the order of the tensors' names."""
    parts = [_row_bytes(tensors[name]) for name in sorted(tensors)]
    digests = (hashlib.blake2b(b"".join(row), digest_size=8).digest() for row in zip(*parts, strict=True))
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def _row_bytes(array: Array) -> list[bytes]:
    if array.dtype == object:
        texts = ([str(value).encode() for value in np.ravel(row)] for row in array)
        # Lengths first: ["ab", "c"] and ["a", "bc"] are different rows.
        return [b"".join(len(text).to_bytes(8, "big") + text for text in row) for row in texts]
    # + 0.0 makes -0.0 and 0.0, which are equal, the same bytes.
    normal = np.ascontiguousarray(array + 0.0 if array.dtype.kind == "f" else array)
    return [row.tobytes() for row in normal]


def _nullable(data: Data) -> set[str]:
    return {name for name, column in data.columns.items() if column.nullable}


def _names(bound: Columns) -> set[str]:
    return {name for names in bound.values() for name in ((names,) if isinstance(names, str) else names)}


def times_as_text(table: pa.Table, columns: Collection[str], *, nullable: Collection[str]) -> pa.Table:
    """The table with times as ISO 8601 (`2026-01-31T12:00:00.000000`, and the offset of their time zone if
    they have one), and with missing text as empty text in the columns that may be empty.
    """
    for name in [name for name in table.column_names if name in columns]:
        place = table.column_names.index(name)
        table = table.set_column(place, name, _as_text(table.column(name), fill=name in nullable))
    return table


def _as_text(column: pa.ChunkedArray, *, fill: bool) -> pa.ChunkedArray:
    import pyarrow as pa
    from pyarrow import compute, types

    if types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    if types.is_timestamp(column.type):
        zone = column.type.tz
        offset = "%z" if zone else ""
        column = compute.strftime(column.cast(pa.timestamp("us", zone)), format=f"%Y-%m-%dT%H:%M:%S{offset}")
    is_text = types.is_string(column.type) or types.is_large_string(column.type)
    return column.fill_null("") if fill and is_text else column

"""Parquet and CSV files as Arrow tables, read once: the digest is of the very bytes that were parsed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from pyarrow import csv, parquet

from model_store.durable import digest_bytes
from model_store.errors import Permanent


class UnreadableTable(Permanent):
    """The file is missing, empty, or not a table."""


def read_table(path: Path) -> tuple[pa.Table, str]:
    """The table and `sha256:<hex>` of its file. Raises `Permanent`, also for a table of no rows."""
    content = _read(path)
    try:
        source = pa.BufferReader(content)
        table = parquet.read_table(source) if path.suffix == ".parquet" else _read_csv(source)
    except (pa.ArrowException, OSError, ValueError) as error:
        kind = "Parquet" if path.suffix == ".parquet" else "CSV"
        raise UnreadableTable(f"{path} is not {kind}: {error}", remedy="write the file again") from error
    if not table.num_rows:
        raise UnreadableTable(f"{path} has no rows", remedy="write rows nobody trained on into it")
    return _decoded(_without_repeated_names(path, table)), digest_bytes(content)


def _decoded(table: pa.Table) -> pa.Table:
    """pandas' categories as the values they stand for."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(field.type.value_type))
    return table


def _read_csv(source: pa.BufferReader) -> pa.Table:
    # Without this an empty cell is missing among numbers, and the text "" among text.
    return csv.read_csv(source, convert_options=csv.ConvertOptions(strings_can_be_null=True))


def _read(path: Path) -> bytes:
    if path.suffix not in (".parquet", ".csv"):
        raise UnreadableTable(f"{path} is neither .parquet nor .csv", remedy="write one of the two")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableTable(
            f"{path} cannot be read: {error.strerror or error}",
            remedy="prepare the data, or correct the path under `data` in the spec",
        ) from error
    if not content:
        raise UnreadableTable(f"{path} is empty", remedy="write rows nobody trained on into it")
    return content


def _without_repeated_names(path: Path, table: pa.Table) -> pa.Table:
    repeated = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if repeated:
        raise UnreadableTable(f"{path} has more than one column {', '.join(repeated)}", remedy="rename them")
    return table

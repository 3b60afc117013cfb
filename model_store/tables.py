"""Parquet and CSV files as Arrow tables, read once: the digest is of the very bytes that were parsed."""

from __future__ import annotations

import codecs
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, parquet

from model_store.durable import digest_bytes
from model_store.errors import Permanent, first_line


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
        raise UnreadableTable(
            f"{path} is not {kind}: {first_line(error)}", remedy=_remedy_for(path, content)
        ) from error
    _refuse_other_encodings(path, table)
    if not table.num_rows:
        raise UnreadableTable(f"{path} has no rows", remedy="write rows nobody trained on into it")
    return _decoded(_without_repeated_names(path, table)), digest_bytes(content)


def _remedy_for(path: Path, content: bytes) -> str:
    """What a spreadsheet of another country, or another program, wrote."""
    if path.suffix == ".csv" and content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "it is UTF-16: write it as UTF-8 (pandas: to_csv(path, encoding='utf-8'))"
    header = content.split(b"\n", 1)[0]
    if path.suffix == ".csv" and b";" in header and b"," not in header:
        return (
            "its columns are separated by `;`: write it with commas between columns and points in numbers"
            " (pandas: to_csv(path, sep=',', decimal='.'))"
        )
    return "write the file again"


def _refuse_other_encodings(path: Path, table: pa.Table) -> None:
    """pyarrow reads text that is no UTF-8 as bytes."""
    odd = [field.name for field in table.schema if pa.types.is_binary(field.type)]
    if odd and path.suffix == ".csv":
        raise UnreadableTable(
            f"{path}: the text in {', '.join(f'`{name}`' for name in odd[:10])} is not UTF-8",
            remedy="write the file as UTF-8 (pandas: to_csv(path, encoding='utf-8'))",
        )


def _decoded(table: pa.Table) -> pa.Table:
    """pandas' categories as the values they stand for."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(field.type.value_type))
    return table


def _read_csv(source: pa.BufferReader) -> pa.Table:
    """An empty cell is missing, among text as well. `NA` is missing among numbers, and Namibia among text."""
    table = csv.read_csv(source, convert_options=csv.ConvertOptions(strings_can_be_null=True))
    text = {field.name: field.type for field in table.schema if pa.types.is_string(field.type)}
    if not text or len(set(table.column_names)) < len(table.column_names):
        return table
    source.seek(0)
    only_empty = csv.ConvertOptions(
        strings_can_be_null=True, null_values=[""], column_types=text, include_columns=list(text)
    )
    again = csv.read_csv(source, convert_options=only_empty)
    for name in text:
        table = table.set_column(table.column_names.index(name), name, again.column(name))
    return table


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

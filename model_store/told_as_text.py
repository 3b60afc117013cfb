"""Times and gaps in text travel as text to models that are served as they are: no tensor holds them.

ONNX has neither, so for exported models such columns are refused where they are read.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def told_as_text(table: pa.Table, columns: Collection[str], *, nullable: Collection[str]) -> pa.Table:
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

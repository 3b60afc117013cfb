"""Reads the request log back: the inputs asked for most, for warmup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from model_store.engines.errors import Refused
from model_store.engines.signature import Shape, Signature
from serving.pod.call import Call, Data
from serving.pod.codec.blob import read_blob


class RecordedInput(NamedTuple):
    """An input of the log, how often it was asked for, and how many requests the log holds in all."""

    call: Call
    times: int
    total: int


def most_frequent(folder: Path, model: str, signature: Signature, limit: int) -> Iterator[RecordedInput]:
    """Inputs of a model's log, most frequent first, at most `limit`. Files that cannot be read are skipped;
    so are inputs that do not fit this signature (an older version's)."""
    table = _table(folder / model, signature)
    if table is None:
        return
    names = [spec.name for spec in signature.inputs]
    columns = [f"{kind}:{name}" for name in names for kind in ("in", "shape")]
    counted = table.group_by("identity", use_threads=False).aggregate(
        [("identity", "count"), *[(column, "first") for column in columns]]
    )
    ranked = counted.sort_by([("identity_count", "descending")]).slice(0, limit)
    for batch in ranked.to_batches(max_chunksize=512):
        for row in batch.to_pylist():
            call = _call(row, signature)
            if call is not None:
                yield RecordedInput(call, row["identity_count"], table.num_rows)


def _table(folder: Path, signature: Signature) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = ["identity", "code"]
    wanted += [f"{kind}:{spec.name}" for spec in signature.inputs for kind in ("in", "shape")]
    tables = []
    for path in sorted(folder.glob("*.parquet")):
        try:
            table = pq.read_table(path, columns=wanted)
        except (OSError, pa.ArrowException):
            continue
        if table.column_names and set(wanted) <= set(table.column_names):
            tables.append(table.select(wanted))
    if not tables:
        return None
    whole = pa.concat_tables(tables)
    return whole.filter(pa.compute.equal(whole["code"], 200)) if whole.num_rows else None


def _call(row: dict[str, Any], signature: Signature) -> Call | None:
    data: list[Data] = []
    shapes: list[Shape] = []
    try:
        for spec in signature.inputs:
            shape, count = spec.accept([int(size) for size in row[f"shape:{spec.name}_first"].split(",")])
            blob = read_blob(spec, memoryview(row[f"in:{spec.name}_first"]), count)
            data.append(bytes(blob) if isinstance(blob, memoryview) else blob)
            shapes.append(shape)
    except (Refused, TypeError, ValueError, AttributeError):
        return None
    return Call(data, shapes, signature)

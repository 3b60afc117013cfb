"""A first release spec from a logged model and labelled rows: what is certain is written, the rest is asked.

A question is a line whose value is missing, so that the spec is not valid before somebody has answered it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from model_store.errors import Permanent
from model_store.export.allowed import code_format
from model_store.export.mlmodel import LoggedModel, read_mlmodel
from model_store.release_spec.before_traffic import Flavor
from model_store.tables import read_table

if TYPE_CHECKING:
    import pyarrow as pa

FLAVORS: tuple[str, ...] = get_args(Flavor)
_LOGGED_AS = {"pyfunc": "python_function"}
CALIBRATION_SHARE = 0.2
MAX_CALIBRATION_ROWS = 2000
MAX_CLASSES = 30
MAX_SLICE_VALUES = 20
# Percent and seconds: slow enough for people to see, and an hour in all is too long for a first try.
STEPS = ((5, 300), (25, 300), (50, 300), (100, 300))


@dataclass(frozen=True, slots=True)
class FirstSpec:
    """The YAML, and for people: what was found, and what only they can answer."""

    text: str
    found: tuple[str, ...]
    asks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Label:
    """What the label's values look like. `lines` go into the spec's `data`, `task` at its top."""

    task: str
    found: str
    lines: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()


def first_spec(
    name: str, folder: Path, data: Path, *, calibration: Path | None = None, label: str | None = None
) -> FirstSpec:
    """The spec of the registered model `name`, logged in `folder`, judged by the rows of `data`.

    Without `calibration` the rows of `data` are divided into two files beside it; equal rows stay together.
    Raises `Permanent` for what is no model or no table, and where the label is not certain.
    """
    logged = read_mlmodel(folder)
    flavor = _flavor(logged)
    table, _ = read_table(data)
    fed = _fed(logged, table, data)
    column = label or _label_column(table, fed, data)
    if column not in table.column_names:
        raise Permanent(
            f"{data} has no column `{column}`", remedy=f"the columns are: {_listed(table.column_names)}"
        )
    said = _read_label(table.column(column), column)
    left = [one for one in table.column_names if one != column and one not in (fed or ())]
    slices, ignored = _slices(table, left) if fed is not None else ([], [])
    files = (data, calibration) if calibration else _divided(table, data, fed or left)
    found = [f"flavor {flavor}{_others(logged, flavor)}", said.found]
    found += [f"columns fed to the model, by its signature: {_listed(fed)}"] if fed is not None else []
    found += [f"rows divided: {files[0]} judges, {files[1]} calibrates int8"] if calibration is None else []
    formats = _formats(logged, flavor)
    text = _yaml(name, flavor, formats, files, column, said, slices, ignored)
    asks = (*said.asks, *_trust(formats))
    return FirstSpec(text, tuple(found), asks)


def _flavor(logged: LoggedModel) -> str:
    known = next((one for one in FLAVORS if _LOGGED_AS.get(one, one) in logged.flavors), None)
    if known is None:
        raise Permanent(
            f"the model's flavours are {_listed(sorted(logged.flavors))}; a release starts from"
            f" {' or '.join(FLAVORS)}",
            remedy="log it as ONNX as well (mlflow.onnx.log_model)",
        )
    return known


def _others(logged: LoggedModel, flavor: str) -> str:
    others = sorted(set(logged.flavors) - {flavor, "python_function"})
    return f" (the model also has {', '.join(others)})" if others else ""


def _formats(logged: LoggedModel, flavor: str) -> tuple[str, ...]:
    """What the spec has to allow: for an export, and to serve it as it was logged beside that."""
    exported = code_format(logged, flavor)
    has_code = exported is not None and "python_function" in logged.flavors
    return tuple(dict.fromkeys(filter(None, (exported, "pyfunc" if has_code else None))))


def _trust(formats: tuple[str, ...]) -> tuple[str, ...]:
    if not formats:
        return ()
    each = [
        f"{one}: {'the model as it was logged, in pods' if one == 'pyfunc' else 'to export it'}"
        for one in formats
    ]
    return (
        "source.allow: the model's author's code is run, and only in the formats that this names"
        f" ({'; '.join(each)}): write [{', '.join(formats)}] if only people you trust can register versions",
    )


def _fed(logged: LoggedModel, table: pa.Table, data: Path) -> tuple[str, ...] | None:
    """The columns that the signature names, None where it names tensors or nothing: a transformers pipeline
    takes one column of text that has no name.
    """
    fields = logged.signature.inputs if logged.signature else ()
    if not fields or any(field.shape is not None or not field.name for field in fields):
        return None
    names = tuple(field.name for field in fields)
    if missing := [name for name in names if name not in table.column_names]:
        raise Permanent(
            f"the model takes {_listed(missing)}, which {data} does not have",
            remedy="write the rows with the columns that the model was trained on, and the label",
        )
    return names


def _label_column(table: pa.Table, fed: tuple[str, ...] | None, data: Path) -> str:
    left = [name for name in table.column_names if fed is not None and name not in fed]
    if len(left) == 1:
        return str(left[0])
    which = _listed(left or table.column_names)
    raise Permanent(
        f"which column of {data} holds the right answer is not certain", remedy=f"--label, one of: {which}"
    )


def _read_label(column: pa.ChunkedArray, name: str) -> _Label:
    if column.null_count:
        raise Permanent(
            f"{column.null_count} of {len(column)} rows have no `{name}`", remedy="label or drop them"
        )
    counted = column.value_counts()
    values = sorted(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True), key=str)
    shares = ", ".join(f"{value!r} {count / len(column):.1%}" for value, count in values[:8])
    if len(values) < 2:
        raise Permanent(f"`{name}` is always {shares}", remedy="rows of one class judge nothing")
    if len(values) == 2:
        return _binary([value for value, _ in values], name, shares)
    is_text = isinstance(values[0][0], str)
    if not is_text and any(float(value) != int(value) for value, _ in values):
        return _Label("regression", f"label `{name}`: {len(values)} numbers with fractions")
    if len(values) > MAX_CLASSES and not is_text:
        ask = f"task: `{name}` holds {len(values)} whole numbers; write regression, or multiclass"
        return _Label("", f"label `{name}`: {len(values)} whole numbers", asks=(ask,))
    if is_text:
        return _Label("multiclass", f"label `{name}`: {len(values)} classes: {shares}")
    ask = f"task: `{name}` is {shares}; write multiclass, or regression if these are amounts"
    return _Label("", f"label `{name}`: {len(values)} whole numbers", asks=(ask,))


def _binary(values: list[Any], name: str, shares: str) -> _Label:
    found = f"label `{name}`: two classes: {shares}"
    if set(values) in ({0, 1}, {False, True}):
        return _Label("binary", found, ("positive: 1",))
    ask = f"data.positive: which of the two is the positive class, {values[0]!r} or {values[1]!r}"
    return _Label("binary", found, ("positive:",), (ask,))


def _slices(table: pa.Table, left: list[str]) -> tuple[list[str], list[str]]:
    """Of the columns that the model does not take: those with few values, and the rest."""
    few = [name for name in left if len(table.column(name).unique()) <= MAX_SLICE_VALUES]
    return few, [name for name in left if name not in few]


def _divided(table: pa.Table, data: Path, fed: Any) -> tuple[Path, Path]:
    """Two files beside `data`. Rows with equal inputs go to the same one, or int8 would be tuned on the rows
    it is judged by."""
    import pandas as pd
    from pyarrow import parquet

    frame = table.select(list(fed)).to_pandas()
    buckets = pd.util.hash_pandas_object(frame.map(str), index=False).to_numpy()
    share = min(CALIBRATION_SHARE, MAX_CALIBRATION_ROWS / len(frame))
    is_calibration = buckets < np.uint64(share * 2.0**64)
    paths = []
    for role, chosen in (("evaluation", ~is_calibration), ("calibration", is_calibration)):
        path = data.with_name(f"{data.stem}.{role}.parquet")
        if path.exists():
            raise Permanent(f"{path} is there already", remedy="move it away, or name --calibration")
        paths.append((path, chosen))
    for path, chosen in paths:
        if not chosen.any():
            raise Permanent(f"{data} has too few rows to divide", remedy="name a file by --calibration")
        parquet.write_table(table.filter(chosen), path)
    return paths[0][0], paths[1][0]


def _yaml(
    name: str,
    flavor: str,
    formats: tuple[str, ...],
    files: tuple[Path, Path],
    label: str,
    said: _Label,
    slices: list[str],
    ignored: list[str],
) -> str:
    lines = [
        "# A first spec, written by `slipway spec init`. Every field: docs/specs.md",
        f"model: {_quoted(name)}",
        f"task: {said.task}" if said.task else "task:                  # binary, multiclass, regression, ...",
        "",
        *_source(flavor, formats),
        "",
        "data:                   # labelled rows nobody trained on",
        f"  evaluation: {_quoted(str(files[0]))}",
        f"  calibration: {_quoted(str(files[1]))}",
        f"  label: {_quoted(label)}",
        *(f"  {line}" for line in said.lines),
        *([f"  slices: [{', '.join(map(_quoted, slices))}]"] if slices else []),
        *([f"  ignore: [{', '.join(map(_quoted, ignored))}]"] if ignored else []),
        "",
        "# gates: the metrics of the task and their usual limits hold unless written here (docs/gates.md)",
        "",
        "rollout:",
        "  steps:",
        *(f"    - {{weight: {weight}, hold_seconds: {hold}}}" for weight, hold in STEPS),
    ]
    return "\n".join(lines) + "\n"


def _source(flavor: str, formats: tuple[str, ...]) -> list[str]:
    if not formats:
        return [f"source: {{flavor: {flavor}}}"]
    return [
        "source:                 # formats whose loading runs their author's code; this model's are:",
        f"  allow:                # [{', '.join(formats)}]",
    ]


def _quoted(text: str) -> str:
    """As YAML reads it back: a column may be called `no`."""
    import yaml

    written: str = yaml.safe_dump(text, default_flow_style=True, width=10_000)
    return written.removesuffix("\n").removesuffix("\n...").strip()


def _listed(names: Any) -> str:
    shown = list(names)
    return ", ".join(map(str, shown[:20])) + (f" and {len(shown) - 20} more" if len(shown) > 20 else "")

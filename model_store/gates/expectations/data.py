"""Whether the rows are what the spec says, before anything is judged by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model_store.dataset import Columns, UnusableData, read_dataset
from model_store.errors import Permanent
from model_store.gates.expectations import rules
from model_store.gates.expectations.docs import publish
from model_store.gates.expectations.great import validate
from model_store.gates.expectations.rules import Rule
from model_store.release_spec import Data, ReleaseSpec
from model_store.tables import read_table
from model_store.types import Check, TensorSpec

if TYPE_CHECKING:
    import pandas as pd

MAX_COLUMNS_SHOWN = 100


class BadData(Permanent):
    """The rows are not what the spec says they are."""


@dataclass(frozen=True, slots=True)
class DataReport:
    """Every expectation of both files as a check, and the index of the Data Docs."""

    checks: tuple[Check, ...]
    index: Path

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    def require(self) -> None:
        """Raises `Permanent` (BadData) listing every failed expectation."""
        if self.passed:
            return
        failed = [check for check in self.checks if not check.passed]
        said = "\n".join(f"  {check.name}: {check.detail}" for check in failed)
        raise BadData(
            f"{len(failed)} of {len(self.checks)} expectations about the data are not met:\n{said}",
            remedy=f"correct the files, or the limits under `data` in the spec; all of it: {self.index}",
        )


@dataclass(frozen=True, slots=True)
class _Rows:
    """One file as a table, and its rows' hashes if the model can take them, else why not."""

    path: Path
    digest: str
    frame: pd.DataFrame
    hashes: np.ndarray[Any, Any] | None
    problem: str


def check_data(
    spec: ReleaseSpec,
    evaluation: Path,
    calibration: Path,
    inputs: Sequence[TensorSpec],
    *,
    columns: Columns,
    docs_dir: Path,
    as_logged: bool = False,
) -> DataReport:
    """Check both files and write Data Docs into `docs_dir`.

    `inputs` and `columns` are those of the `ExportedModel`, `as_logged` whether it is served as it is. Of
    both files: schema, types, missing values, ranges and allowed values; of the evaluation rows also their
    number, label balance and calibration rows among them. Raises `Permanent` for files that are no tables;
    all else that is wrong is in the report.
    """
    read = partial(_read, spec=spec, inputs=inputs, columns=columns, as_logged=as_logged)
    judged, tuned = read(evaluation, labelled=True), read(calibration, labelled=False)
    features = [name for fed in columns.values() for name in ((fed,) if isinstance(fed, str) else fed)]
    extra = _judge(judged, tuned, spec.data)
    checks = [
        *_run("evaluation", spec, judged, features, extra, docs_dir),
        *_run("calibration", spec, tuned, features, [], docs_dir),
    ]
    return DataReport(tuple(checks), docs_dir / "index.html")


def _read(
    path: Path,
    *,
    spec: ReleaseSpec,
    inputs: Sequence[TensorSpec],
    columns: Columns,
    as_logged: bool,
    labelled: bool,
) -> _Rows:
    data = spec.data
    table, digest = read_table(path)
    frame = table.to_pandas()
    for name, column in data.columns.items():
        if column.values is not None and name in frame:
            frame[name] = frame[name].map(str, na_action="ignore")
    try:
        rows = read_dataset(path, data, inputs, columns=columns, labelled=labelled, as_logged=as_logged)
    except UnusableData as error:
        return _Rows(path, digest, frame, None, error.problem)
    return _Rows(path, digest, frame, rows.row_hashes, "")


def _judge(judged: _Rows, tuned: _Rows, data: Data) -> list[Rule]:
    """Rules of the evaluation rows alone; adds the columns they look at."""
    found = [*rules.row_count(data)]
    if (positive := _positive(judged.frame, data)) is not None:
        judged.frame[rules.POSITIVE] = positive
        found += rules.balance(data)
    if judged.hashes is not None and tuned.hashes is not None:
        judged.frame[rules.LEAKED] = np.isin(judged.hashes, tuned.hashes).astype(float)
        found += rules.leakage(data)
    return found


def _positive(frame: pd.DataFrame, data: Data) -> pd.Series[float] | None:
    """Which rows [N] are positive, as 1.0 and 0.0; None of a label that is not one of two classes.

    Text without the positive word is left to the gates, which ask what is meant.
    """
    if not isinstance(data.label, str) or data.label not in frame:
        return None
    present = frame[data.label].dropna().unique()
    is_positive = frame[data.label] == data.positive
    if not is_positive.any() and any(isinstance(value, str) for value in present):
        is_positive = frame[data.label].map(str) == str(data.positive)
    is_asked = not is_positive.any() and any(isinstance(value, str) for value in present)
    return None if len(present) > 2 or is_asked else is_positive.astype(float)


def _run(
    role: str, spec: ReleaseSpec, rows: _Rows, features: list[str], extra: list[Rule], docs_dir: Path
) -> list[Check]:
    data = spec.data
    grouped = (data.group,) if data.group else ()
    labels = [*data.labels, *grouped, *data.slices] if role == "evaluation" else []
    # Beyond a hundred, each column costs 15 ms to say what `readable` says of all at once.
    shown = features if len(features) <= MAX_COLUMNS_SHOWN else []
    present = [name for name in (*shown, *labels, *data.columns) if name in rows.frame]
    rows.frame[rules.READABLE] = float(not rows.problem)
    stated = [
        *rules.schema([*features, *labels]),
        *rules.readable(rows.problem),
        *extra,
        *rules.columns(dict.fromkeys(present), data.columns, slices=data.slices),
    ]
    validated = validate(rows.frame, f"{role} rows", [rule.expectation for rule in stated])
    checks = [
        rules.to_check(role, rule, finding) for rule, finding in zip(stated, validated.findings, strict=True)
    ]
    failed = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    facts = {"File": str(rows.path), "Digest": rows.digest, "Rows": str(len(rows.frame))}
    title = f"{role.capitalize()} rows of {spec.model}"
    publish(validated.document, docs_dir, name=f"data-{role}", title=title, facts=facts, failed=failed)
    return checks

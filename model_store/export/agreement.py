"""Does the ONNX model say what the original says, on the same rows? Told in rows, decisions and quantiles.

Float32 moves a number across a tree's threshold now and then, and so one row in ten thousand gets another
leaf. That is no fault of an export; many such rows are (docs/decisions/0123).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_store.engines.noise import tied
from model_store.export.base import NotExportable
from model_store.types import Check

Array = np.ndarray[Any, Any]
Answers = Mapping[str, Array]

# Of the rows: so many may be answered otherwise.
TOLERATED_SHARE = 0.001
# From so many rows on, one may differ however many there are.
_ROWS_FOR_ONE = 100
_EXAMPLES = 3


class Disagrees(NotExportable):
    """The ONNX model does not say what the original says."""


@dataclass(frozen=True, slots=True, eq=False)
class Differences:
    """Between two models' answers to the same rows.

    `by_row`: by output name, [N] float64: of numbers |other - original| / size, at the worst place of the
    row, where size is 1 for probabilities and else the larger of |original| and what is typical for its
    column; of labels 1 where they differ. `labels`: which outputs are labels. `ties`: in so many rows labels
    differ where the original's own probabilities are as good as equal; these rows are not among `by_row`.
    """

    by_row: Mapping[str, Array]
    labels: frozenset[str]
    ties: int = 0

    @classmethod
    def between(
        cls,
        original: Answers,
        other: Answers,
        probabilities: frozenset[str] = frozenset(),
        *,
        tie: float = 0.0,
    ) -> Differences:
        """Of the outputs that `original` has. `tie`: probabilities so close may be decided either way.

        Raises `Permanent` (NotExportable) for other shapes.
        """
        by_row = {
            name: _by_row(name, original[name], other[name], name in probabilities) for name in original
        }
        labels = frozenset(name for name in original if _is_label(other[name]))
        at_a_tie = _tied(original, probabilities, tie)
        ties = int(sum(np.count_nonzero(by_row[name][at_a_tie]) for name in labels))
        for name in labels:
            by_row[name] = np.where(at_a_tie, 0.0, by_row[name])
        return cls(by_row, labels, ties)

    def __len__(self) -> int:
        return len(next(iter(self.by_row.values())))

    @property
    def worst_by_row(self) -> Array:
        """[N]: over all outputs."""
        return np.asarray(np.max(list(self.by_row.values()), axis=0))

    @property
    def decisions(self) -> int:
        """How many rows have another label."""
        rows = [self.by_row[name] > 0 for name in self.labels]
        return int(np.any(rows, axis=0).sum()) if rows else 0

    @property
    def most(self) -> str:
        """The output whose numbers (or else labels) differ most."""
        numbers = [name for name in self.by_row if name not in self.labels] or list(self.by_row)
        return max(numbers, key=lambda name: float(self.by_row[name].max(initial=0)))

    def but_for(self, rows: int) -> float:
        """The largest difference when so many rows are set aside, those with the largest."""
        ordered = np.sort(self.worst_by_row)
        return float(ordered[-1 - rows]) if len(ordered) > rows else 0.0

    def __str__(self) -> str:
        besides = f" besides {self.ties:,} at a tie" if self.ties else ""
        decided = f"{self.decisions:,} of {len(self):,} decisions differ{besides}; " if self.labels else ""
        if self.labels == set(self.by_row):
            return decided.removesuffix("; ")
        middle, most = np.quantile(self.by_row[self.most], (0.5, 0.99))
        largest = self.by_row[self.most].max(initial=0)
        return (
            f"{decided}numbers differ by {middle:.2g} (median), {most:.2g} (99 of 100 rows),"
            f" {largest:.2g} (largest), most in output {self.most}"
        )


def tolerated_rows(rows: int) -> int:
    """How many of so many rows may be answered otherwise."""
    return max(int(TOLERATED_SHARE * rows), 1 if rows >= _ROWS_FOR_ONE else 0)


def agree(
    original: Answers, onnx: Answers, *, tolerance: float, probabilities: frozenset[str] = frozenset()
) -> Check:
    """`observed`: the largest difference (see `Differences`) but for the tolerated rows.

    Raises `Permanent`: Disagrees above `tolerance`, NotExportable for NaN and other shapes.
    """
    refuse_nan(original, "the original model")
    refuse_nan(onnx, "the ONNX model")
    # Two probabilities that may each be so far off may change places.
    found = Differences.between(original, onnx, probabilities, tie=2 * tolerance)
    aside = tolerated_rows(len(found))
    observed = found.but_for(aside)
    if observed > tolerance:
        beyond = np.count_nonzero(found.worst_by_row > tolerance)
        raise Disagrees(
            f"the ONNX model answers {beyond:,} of {len(found):,} rows otherwise than the original, by more"
            f" than {tolerance:g}, and {aside} may be. {found}."
            f" {examples(found, original, onnx, 'the original', 'ONNX')}",
            remedy="if such differences are harmless, raise gates.export_tolerance in the spec; else log the"
            " model as ONNX by its own exporter, or serve it as it is: source.flavor: pyfunc",
        )
    return Check("export agreement", observed, tolerance, passed=True, detail=str(found))


def refuse_nan(answers: Answers, who: str) -> None:
    """Raises `Permanent` when any number is NaN or infinite: such answers cannot be judged nor served."""
    for name, array in answers.items():
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        rows = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        raise NotExportable(
            f"{who} answers NaN or infinity in output `{name}` to {len(rows)} of {len(array)} rows,"
            f" first to row {rows[0]}",
            remedy="look at that row and at the training; a diverged model must not be served",
        )


def examples(found: Differences, one: Answers, other: Answers, first: str, second: str) -> str:
    """The rows that differ most, with both values: `row 3: label is 1 in the original and 0 in ONNX`."""
    worst = np.argsort(-found.worst_by_row, kind="stable")[:_EXAMPLES]
    return "; ".join(_example(int(row), found, one, other, first, second) for row in worst)


def _example(row: int, found: Differences, one: Answers, other: Answers, first: str, second: str) -> str:
    name = max(found.by_row, key=lambda name: float(found.by_row[name][row]))
    before, after = _value(one[name][row]), _value(other[name][row])
    return f"row {row}: {name} is {before} {_in(first)} and {after} {_in(second)}"


def _in(who: str) -> str:
    return f"in {who}" if who.startswith(("the ", "ONNX")) else who


def _value(value: Any) -> str:
    return np.array2string(np.asarray(value), precision=6, threshold=8, edgeitems=3, separator=", ")


def _tied(original: Answers, probabilities: frozenset[str], tie: float) -> Array:
    """[N] bool: whether the two largest of a row's probabilities are closer than `tie`."""
    found = np.zeros(len(next(iter(original.values()))), bool)
    for name in probabilities & original.keys():
        found |= tied(original[name], tie)
    return found


def _is_label(array: Array) -> bool:
    return bool(array.dtype.kind != "f")


def _by_row(name: str, original: Array, other: Array, is_probability: bool) -> Array:
    if original.shape != other.shape:
        raise NotExportable(
            f"output `{name}` has shape {other.shape} in ONNX and {original.shape} in the original",
            remedy="export it again; this converter does not understand the model",
        )
    different = _unequal(original, other) if _is_label(other) else _far(original, other, is_probability)
    by_row: Array = different.reshape(len(different), -1).max(axis=1, initial=0.0)
    return by_row


def _unequal(original: Array, other: Array) -> Array:
    """1 where labels differ. True is 1, and 1.0 is 1, but "1" is not 1."""
    numbers = "biuf"
    if original.dtype.kind in numbers and other.dtype.kind in numbers:
        return np.asarray(original != other, np.float64)
    if (original.dtype.kind in numbers) != (other.dtype.kind in numbers):
        return np.ones(original.shape)
    return np.asarray(original.astype(str) != other.astype(str), np.float64)


def _far(original: Array, other: Array, is_probability: bool) -> Array:
    if original.dtype.kind not in "biuf":
        return np.ones(original.shape)
    wide = original.astype(np.float64)
    size = np.ones_like(wide) if is_probability else np.maximum(np.abs(wide), _typical(wide))
    return np.asarray(np.abs(other.astype(np.float64) - wide) / size)


def _typical(wide: Array) -> Array:
    """By column, the median size of what is not zero; 1 for a column of zeros."""
    columns = np.abs(wide.reshape(len(wide), -1))
    sizes = [float(np.median(column[column > 0])) if (column > 0).any() else 1.0 for column in columns.T]
    return np.array(sizes).reshape(wide.shape[1:])

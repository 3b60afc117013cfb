"""From two models' answers on the same rows to checks. Pure: no model is run here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from model_store.errors import Permanent
from model_store.gates.accuracy.paired import Difference, accuracy_difference, auc_difference
from model_store.gates.readout import Outputs, Readout, rows_not_finite
from model_store.release_spec import Gates, Margin
from model_store.types import Check

Array = np.ndarray[Any, Any]

# Below this many rows of a class DeLong's normal approximation is not to be trusted.
MIN_ROWS_PER_CLASS = 10


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's outputs for all evaluation rows, and how to read them."""

    name: str
    outputs: Outputs
    readout: Readout

    def __post_init__(self) -> None:
        if len({len(values) for values in self.outputs.values()}) != 1:
            raise Permanent(
                f"{self.name} answers different numbers of rows per output",
                remedy="every output must have the batch as its first dimension",
            )

    def is_right(self, labels: Array) -> Array:
        """[N] bool; a row answered with NaN or infinity is wrong."""
        return np.asarray((self.readout.decisions(self.outputs) == labels) & ~self.not_finite)

    @property
    def not_finite(self) -> Array:
        """[N] bool."""
        return rows_not_finite(self.outputs)

    @property
    def has_scores(self) -> bool:
        return self.readout.scores is not None

    def positive_scores(self) -> Array:
        """[N] float64."""
        return self.readout.positive_scores(self.outputs)


@dataclass(frozen=True, slots=True)
class Truth:
    """What the rows really are: class numbers, positives, and each slice column's values (all [N])."""

    labels: Array
    is_positive: Array
    slices: Mapping[str, Array]


def judge_accuracy(
    original: Answers, candidate: Answers, truth: Truth, gates: Gates, champion: Answers | None = None
) -> tuple[Check, ...]:
    """Every accuracy check of one candidate. `observed` of a margin is the lower confidence bound of
    candidate minus reference, `limit` is minus the margin; of a minimum it is the plain share.

    Raises `Permanent` when there are no rows, or a limit on AUC and no scores to take it from.
    """
    if len(truth.labels) == 0:
        raise Permanent("no evaluation rows", remedy="fill the file named by data.evaluation")
    checks = [_finite(candidate)]
    checks += _margins("accuracy", gates.accuracy, _accuracy(original, candidate, truth, gates.accuracy))
    if gates.auc is not None:
        checks += _auc_checks(original, candidate, truth, gates.auc)
    checks += _slice_checks(original, candidate, truth, gates)
    if gates.champion is not None and champion is not None:
        label = f"accuracy against champion {champion.name}"
        checks += _margins(label, gates.champion, _accuracy(champion, candidate, truth, gates.champion))
    return tuple(checks)


def _finite(candidate: Answers) -> Check:
    bad = candidate.not_finite
    first = f", first in row {int(np.argmax(bad))}" if bad.any() else ""
    return Check(
        "finite answers",
        observed=float(bad.sum()),
        limit=0.0,
        passed=not bad.any(),
        detail=f"{int(bad.sum())} of {len(bad)} rows answered with NaN or infinity{first}",
        direction="at_most",
    )


def _accuracy(reference: Answers, candidate: Answers, truth: Truth, margin: Margin) -> Difference:
    right = reference.is_right(truth.labels), candidate.is_right(truth.labels)
    return accuracy_difference(*right, margin.confidence)


def _auc_checks(
    original: Answers, candidate: Answers, truth: Truth, margin: Margin, name: str = "auc"
) -> list[Check]:
    if not (original.has_scores and candidate.has_scores):
        raise Permanent(
            "gates.auc needs scores and the model answers only labels",
            remedy="export it with probabilities, or set gates.auc to null",
        )
    if candidate.not_finite.any() or original.not_finite.any():
        worst = Difference(0.0, -1.0, -1.0)
        return [_margin(name, margin, worst, "NaN or infinity among the scores: no order, no AUC")]
    if min(truth.is_positive.sum(), (~truth.is_positive).sum()) < 2:
        raise Permanent("AUC needs rows of both classes", remedy="check data.positive and data.evaluation")
    scores = original.positive_scores(), candidate.positive_scores()
    return _margins(name, margin, auc_difference(*scores, truth.is_positive, margin.confidence))


def _margins(name: str, margin: Margin, found: Difference) -> list[Check]:
    checks = [_margin(name, margin, found)]
    if margin.min is not None:
        is_enough = found.candidate >= margin.min
        detail = f"{found.candidate:.4f}, at least {margin.min:.4f}"
        minimum = Check(f"{name} minimum", found.candidate, margin.min, is_enough, detail)
        checks.append(replace(minimum, direction="at_least"))
    return checks


def _margin(name: str, margin: Margin, found: Difference, why: str = "") -> Check:
    numbers = (
        f"{found.reference:.4f} -> {found.candidate:.4f} ({found.value:+.4f}); with {margin.confidence:.0%} "
        f"confidence at least {found.lower:+.4f}, may lose {margin.max_drop:.4f}"
    )
    passed = found.lower >= -margin.max_drop
    return Check(
        f"{name} non-inferiority",
        found.lower,
        -margin.max_drop,
        passed,
        why or numbers,
        reference=None if why else found.reference,
        value=None if why else found.candidate,
        direction="at_least",
    )


def _slice_checks(original: Answers, candidate: Answers, truth: Truth, gates: Gates) -> Iterator[Check]:
    if gates.slices is None:
        return
    for column, values in truth.slices.items():
        for value in sorted(set(values.tolist())):
            yield from _one_slice(f"[{column}={value}]", values == value, original, candidate, truth, gates)


def _one_slice(
    name: str, rows: Array, original: Answers, candidate: Answers, truth: Truth, gates: Gates
) -> list[Check]:
    margin = gates.slices
    assert margin is not None
    parts = _take(original, rows), _take(candidate, rows)
    part = Truth(truth.labels[rows], truth.is_positive[rows], {})
    checks = _margins(f"accuracy {name}", margin, _accuracy(*parts, part, margin))
    if gates.auc is not None and _has_both_classes(part):
        checks += _auc_checks(*parts, part, margin.model_copy(update={"min": None}), f"auc {name}")
    count = int(rows.sum())
    return (
        checks if count >= margin.min_rows else [_reported(check, count, margin.min_rows) for check in checks]
    )


def _has_both_classes(truth: Truth) -> bool:
    positives = int(truth.is_positive.sum())
    return min(positives, len(truth.labels) - positives) >= MIN_ROWS_PER_CLASS


def _take(answers: Answers, rows: Array) -> Answers:
    outputs = {name: values[rows] for name, values in answers.outputs.items()}
    return Answers(answers.name, outputs, answers.readout)


def _reported(check: Check, rows: int, needed: int) -> Check:
    """A check on too few rows to judge by: it keeps its numbers, and gets a limit nothing can miss."""
    detail = f"reported, not judged ({rows} rows, {needed} needed): {check.detail}"
    return replace(check, limit=-1.0, passed=True, detail=detail)

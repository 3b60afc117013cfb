"""Precision, recall and F1: of the positive class, averaged over classes or labels, or over all decisions."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from model_store.metrics.accuracy import BalancedAccuracy
from model_store.metrics.base import Prediction, Task, TooFewRows, Truth
from model_store.metrics.intervals import Bounds, mean_bounds
from model_store.metrics.kinds import Decided, MetricKind, Part, Smooth, classes_of, decisions_of

Array = np.ndarray[Any, Any]
Statistic = Literal["precision", "recall", "f1"]
Columns = tuple[Array, Array]


class Counted(Smooth):
    """A statistic of right and wrong decisions; `average` as in scikit-learn.

    Averages are over the classes or labels that occur in the truth: of others nothing can be found.
    """

    def __init__(self, name: str, statistic: Statistic, average: str, tasks: frozenset[Task]) -> None:
        self.name, self.statistic, self.average, self.tasks = name, statistic, average, tasks

    def value(self, truth: Truth, said: Prediction) -> float:
        """sklearn.metrics.precision_score, recall_score or f1_score; 0 where nothing is decided."""
        from sklearn import metrics

        labels = occurring(truth, self.name, self.average)
        which: dict[str, Any] = {} if self.average == "binary" else {"labels": labels}
        score: Any = getattr(metrics, f"{self.statistic}_score")
        classes, decided = classes_of(truth), decisions_of(said, self.name)
        return float(score(classes, decided, average=self.average, zero_division=0, **which))

    def part(self, truth: Truth, said: Prediction) -> Part:
        """Value and influence: the mean over classes, or of all decisions at once."""
        is_so, decided = indicators(truth, said, self.name, self.average)
        if self.average == "micro":
            both = (is_so & decided).sum(axis=1), is_so.sum(axis=1), decided.sum(axis=1)
            return _part(self.statistic, *(part.astype(float) for part in both))
        parts = [
            _part(self.statistic, (t & d).astype(float), t.astype(float), d.astype(float))
            for t, d in zip(is_so.T, decided.T, strict=True)
        ]
        return Part(float(np.mean([p.value for p in parts])), np.mean([p.influence for p in parts], axis=0))

    def harm(self, truth: Truth, reference: Prediction) -> float:
        """A row counts for its share of the rarest class (precision: of decisions), or of all its labels."""
        is_so, decided = indicators(truth, reference, self.name, self.average)
        rows, columns = is_so.shape
        if self.average == "micro":
            at_once = columns if classes_of(truth).ndim == 2 else 1
            return float(at_once / max(is_so.sum(axis=1).mean(), 1 / rows))
        count = is_so.sum(axis=0)
        if self.statistic == "precision":
            count = np.minimum(count, decided.sum(axis=0))
        shares = np.maximum(count, 1) / rows
        return float((1 / shares).mean() if classes_of(truth).ndim == 2 else (1 / shares).max() / columns)

    def blind(self, truth: Truth) -> Prediction | None:
        """Always yes; of several classes, at random with their shares."""
        classes = classes_of(truth)
        if classes.ndim == 2 and self.average == "micro":
            return Prediction(decisions=_best_constant(classes))
        if classes.ndim == 2 or self.average == "binary":
            return None if self.statistic == "recall" else Prediction(decisions=np.ones_like(classes))
        if self.average == "micro":
            return Decided().blind(truth)
        return Prediction(decisions=independent(classes, truth.class_count))


class RecallMacro(Counted):
    """Of a multiclass model the balanced accuracy by its other name."""

    def bounds(self, truth: Truth, reference: Prediction, candidate: Prediction, confidence: float) -> Bounds:
        """Labels share rows, classes do not."""
        if classes_of(truth).ndim == 2:
            return super().bounds(truth, reference, candidate, confidence)
        return BalancedAccuracy().bounds(truth, reference, candidate, confidence)


class HammingLoss(Decided, MetricKind):
    """Share of all labels of all rows that are decided wrongly."""

    name = "hamming_loss"
    tasks: frozenset[Task] = frozenset({"multilabel"})
    higher_is_better = False

    def value(self, truth: Truth, said: Prediction) -> float:
        """sklearn.metrics.hamming_loss."""
        from sklearn.metrics import hamming_loss

        return float(hamming_loss(classes_of(truth), decisions_of(said, self.name)))

    def bounds(self, truth: Truth, reference: Prediction, candidate: Prediction, confidence: float) -> Bounds:
        """Of the mean over rows; a row that is not seen has all its labels wrong."""
        before, after = (
            (classes_of(truth) != decisions_of(said, self.name)).mean(axis=1)
            for said in (reference, candidate)
        )
        return mean_bounds(after - before, confidence, harm=1.0)


def indicators(truth: Truth, said: Prediction, name: str, average: str) -> Columns:
    """[N, classes or labels] bool: what is so, and what is decided."""
    classes, decided = classes_of(truth), decisions_of(said, name)
    columns = np.asarray(occurring(truth, name, average))
    if classes.ndim == 2:
        return classes[:, columns] == 1, decided[:, columns] == 1
    return classes[:, None] == columns, decided[:, None] == columns


def occurring(truth: Truth, name: str, average: str) -> list[int]:
    """The positive class, or the classes or labels that occur. Raises `TooFewRows` without any."""
    classes = classes_of(truth)
    if classes.ndim == 2:
        found = np.flatnonzero(classes.any(axis=0))
    elif average == "micro":
        found = np.arange(truth.class_count)
    else:
        found = np.unique(classes)
    if average == "binary":
        found = found[found == 1]
    if len(found) == 0:
        raise TooFewRows(f"none of {len(classes)} rows is positive, so there is no {name}")
    return [int(place) for place in found]


def _part(statistic: Statistic, both: Array, is_so: Array, decided: Array) -> Part:
    """A ratio of sums over rows ([N] counts each); its influence is linear in them."""
    above = {"precision": both, "recall": both, "f1": 2 * both}[statistic]
    below = {"precision": decided, "recall": is_so, "f1": is_so + decided}[statistic]
    mean = float(below.mean())
    if mean == 0:
        return Part(0.0, np.zeros(len(both)))
    value = float(above.mean()) / mean
    return Part(value, (above - value * below) / mean)


def _best_constant(classes: Array) -> Array:
    """The same labels for every row, that make the micro F1 largest: the most common ones."""
    shares = classes.mean(axis=0)
    order = np.argsort(-shares)
    reached = 2 * np.cumsum(shares[order]) / (np.arange(1, len(shares) + 1) + shares.sum())
    result = np.zeros_like(classes)
    result[:, order[: int(np.argmax(reached)) + 1]] = 1
    return result


def independent(classes: Array, count: int) -> Array:
    """[N] decisions as common as the classes, and as common in every class: what guessing comes to."""
    shares = np.bincount(classes, minlength=count) / len(classes)
    edges = np.cumsum(shares)
    result = np.empty(len(classes), np.int64)
    for each in np.unique(classes):
        rows = np.flatnonzero(classes == each)
        result[rows] = np.searchsorted(edges, (np.arange(len(rows)) + 0.5) / len(rows))
    return np.minimum(result, count - 1)


_SOLE: frozenset[Task] = frozenset({"binary"})
_MACRO: frozenset[Task] = frozenset({"multiclass", "multilabel"})

METRICS = (
    Counted("precision", "precision", "binary", _SOLE),
    Counted("f1", "f1", "binary", _SOLE),
    Counted("precision_macro", "precision", "macro", _MACRO),
    RecallMacro("recall_macro", "recall", "macro", _MACRO),
    Counted("f1_macro", "f1", "macro", _MACRO),
    Counted("f1_micro", "f1", "micro", _MACRO),
    HammingLoss(),
)

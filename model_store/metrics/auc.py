"""Area under the ROC curve, and average precision (under the precision-recall curve).

DeLong, DeLong, Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
characteristic curves", Biometrics 44 (1988) 837-845, through midranks as in Sun & Xu, "Fast implementation of
DeLong's algorithm", IEEE Signal Processing Letters 21 (2014) 1389-1393.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from model_store.metrics.base import Needs, Prediction, Task, TooFewRows, Truth
from model_store.metrics.intervals import Bounds, typical_size, variance_reach
from model_store.metrics.kinds import MetricKind, Part, Shares, Smooth, classes_of, scores_of

Array = np.ndarray[Any, Any]
SCORED: frozenset[Task] = frozenset({"binary", "multiclass", "multilabel"})


class AUC(Shares, MetricKind):
    """Of the positive class; of several classes or labels the mean of each against the rest.

    Rows that these rows do not show: with 95 % confidence three of the rarer class may lose their places,
    which blindly costs half of the area that each counts for. A third is reckoned with, so that 100 positives
    are enough for a limit of 0.01 (docs/decisions/0122).
    """

    name = "auc"
    tasks = SCORED
    needs: Needs = "scores"

    def value(self, truth: Truth, said: Prediction) -> float:
        """sklearn.metrics.roc_auc_score, which wants probabilities for several classes: so one at a time."""
        from sklearn.metrics import roc_auc_score

        columns = one_against_rest(truth, said, self.name, least=1)
        return float(np.mean([roc_auc_score(positive, scores) for positive, scores in columns]))

    def bounds(self, truth: Truth, reference: Prediction, candidate: Prediction, confidence: float) -> Bounds:
        """DeLong's variance, with Student's t for few of a class, and rows that are not seen."""
        before, after = (one_against_rest(truth, said, self.name, least=2) for said in (reference, candidate))
        pairs = [
            (positive, placements(positive, was), placements(positive, becomes))
            for (positive, was), (_, becomes) in zip(before, after, strict=True)
        ]
        rows = len(truth)
        value = float(np.mean([becomes.area - was.area for _, was, becomes in pairs]))
        changes = [_contributions(positive, becomes.of_row - was.of_row) for positive, was, becomes in pairs]
        per_row = np.mean(changes, axis=0)
        rarer = np.array([min(int(p.sum()), int((~p).sum())) for p, _, _ in pairs])
        sizes = rows / rarer / 3
        unseen = float(sizes.mean() if classes_of(truth).ndim == 2 else sizes.max() / len(sizes))
        harm = max(1.0, unseen, typical_size(per_row[per_row < 0]) if value < 0 else 0.0)
        variance = float((per_row**2).sum()) / rows**2
        reach = variance_reach(variance, rows, int(rarer.min()) - 1, confidence, harm=harm)
        return Bounds(value - reach, value + reach)


class Placements(NamedTuple):
    """DeLong's V10 and V01 in the rows' order: [N], for a positive row the share of negatives it beats, for a
    negative the share of positives that beat it; ties count half."""

    area: float
    of_row: Array


def placements(positive: Array, scores: Array) -> Placements:
    """From which rows are positive ([N] bool) and scores ([N])."""
    above, below = scores[positive], scores[~positive]
    overall = midranks(scores)
    of_row = np.empty(len(scores))
    of_row[positive] = (overall[positive] - midranks(above)) / len(below)
    of_row[~positive] = 1 - (overall[~positive] - midranks(below)) / len(above)
    return Placements(float(of_row[positive].mean()), of_row)


def _contributions(positive: Array, change: Array) -> Array:
    """[N], so that the sum of squares over N squared is DeLong's variance of the difference."""
    result = np.empty(len(change))
    for part in (positive, ~positive):
        count = int(part.sum())
        centred = change[part] - change[part].mean()
        result[part] = centred * len(change) / np.sqrt(count * (count - 1))
    return result


def midranks(values: Array) -> Array:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse])


def one_against_rest(truth: Truth, said: Prediction, name: str, *, least: int) -> list[tuple[Array, Array]]:
    """For the positive class, or for each class or label: which rows are positive, and the scores for it.

    Raises `TooFewRows` unless each has `least` rows on both sides.
    """
    classes, scores = classes_of(truth), scores_of(said, name)
    if classes.ndim == 2:
        positives = [classes[:, label] == 1 for label in range(classes.shape[1])]
        columns = list(zip(positives, scores.T, strict=True))
    elif truth.class_count == 2:
        columns = [(classes == 1, scores[:, 1] if scores.ndim == 2 else scores)]
    else:
        # A class that the model knows and no row has is no question that these rows could answer.
        columns = [(classes == each, scores[:, each]) for each in np.unique(classes)]
    for place, (positive, _) in enumerate(columns):
        _refuse_too_few(positive, name, least, place if len(columns) > 1 else None)
    return columns


def _refuse_too_few(positive: Array, name: str, least: int, place: int | None) -> None:
    count = int(positive.sum())
    if min(count, len(positive) - count) >= least:
        return
    of = "positive" if place is None else f"of class or label {place}"
    raise TooFewRows(f"{name} needs {least} rows of both kinds, and {count} of {len(positive)} are {of}")


class AveragePrecision(Shares, Smooth):
    """Precision at each positive row, in the order of the scores, averaged; of labels the mean."""

    name = "average_precision"
    tasks: frozenset[Task] = frozenset({"binary", "multilabel"})
    needs: Needs = "scores"

    def value(self, truth: Truth, said: Prediction) -> float:
        """sklearn.metrics.average_precision_score."""
        from sklearn.metrics import average_precision_score

        columns = one_against_rest(truth, said, self.name, least=1)
        return float(np.mean([average_precision_score(positive, scores) for positive, scores in columns]))

    def part(self, truth: Truth, said: Prediction) -> Part:
        """Value and influence, the means over labels."""
        parts = [_precision(*column) for column in one_against_rest(truth, said, self.name, least=2)]
        return Part(float(np.mean([p.value for p in parts])), np.mean([p.influence for p in parts], axis=0))

    def harm(self, truth: Truth, reference: Prediction) -> float:
        """A positive row that is ranked last loses its precision, at most 1 of the positives."""
        classes = classes_of(truth)
        if classes.ndim == 2:
            shares = np.maximum(classes.mean(axis=0), 1 / len(classes))
            return float((1 / shares).mean())
        return float(1 / np.mean(classes == 1))


def _precision(positive: Array, scores: Array) -> Part:
    """AP = E[precision(score) | positive], precision(s) = P(positive and above s) / P(above s).

    A row adds its own precision if it is positive, and changes that of every positive row below it by
    (its being positive - precision there) / P(above).
    """
    rows, share = len(scores), float(positive.mean())
    _, level, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    hits = np.bincount(level, weights=positive, minlength=len(counts))
    above, precision = np.cumsum(counts), np.cumsum(hits) / np.cumsum(counts)
    area = float((hits * precision).sum() / hits.sum())
    # Summed over the levels at and below a row's own: [levels].
    weight = hits / rows / share / (above / rows)
    of_hit = np.cumsum((weight * (1 - precision))[::-1])[::-1]
    of_miss = np.cumsum((weight * precision)[::-1])[::-1]
    own = np.where(positive, (precision[level] - area) / share, 0.0)
    return Part(area, own + np.where(positive, of_hit[level], -of_miss[level]))


METRICS = (AUC(), AveragePrecision())

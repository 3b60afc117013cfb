"""Paired comparisons of two classifiers on the same rows. Pure numpy: scipy takes seconds to import.

Two models answer the same rows, so their mistakes are strongly correlated: intervals for independent samples
would be far too wide, and a plain difference says nothing about chance. Sources:

- Accuracy: Tango, "Equivalence test and confidence interval for the difference in proportions for the
  paired-sample design", Statistics in Medicine 17 (1998) 891-908: the score interval. Chosen over Wald's
  and McNemar's because it keeps its coverage when few rows disagree, even none (docs/decisions/0017).
- AUC: DeLong, DeLong, Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
  characteristic curves", Biometrics 44 (1988) 837-845, through midranks as in Sun & Xu, "Fast implementation
  of DeLong's algorithm", IEEE Signal Processing Letters 21 (2014) 1389-1393.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate minus reference, as shares, and the one-sided lower confidence bound of that difference."""

    reference: float
    candidate: float
    lower: float

    @property
    def value(self) -> float:
        return self.candidate - self.reference


def accuracy_difference(reference: Array, candidate: Array, confidence: float) -> Difference:
    """From which rows each model got right ([N] bool both, the same rows). Raises ValueError without rows."""
    rows = len(reference)
    if rows == 0 or len(candidate) != rows:
        raise ValueError(f"need the same rows for both, got {rows} and {len(candidate)}")
    gained, lost = int(np.sum(candidate & ~reference)), int(np.sum(reference & ~candidate))
    lower = tango_lower_bound(gained, lost, rows, confidence)
    return Difference(float(np.mean(reference)), float(np.mean(candidate)), lower)


def tango_lower_bound(gained: int, lost: int, rows: int, confidence: float) -> float:
    """One-sided lower bound of P(candidate right) - P(reference right).

    `gained`: rows only the candidate got right; `lost`: rows only the reference got right. The bound is
    the difference whose score statistic equals the normal quantile, found by bisection.
    """
    z = NormalDist().inv_cdf(confidence)
    low, high = -1.0, (gained - lost) / rows
    for _ in range(60):
        middle = (low + high) / 2
        if _score(gained, lost, rows, middle) > z:
            low = middle
        else:
            high = middle
    return low


def _score(gained: int, lost: int, rows: int, difference: float) -> float:
    """Tango's statistic: distance to `difference` in standard errors under that very difference."""
    a = 2 * rows
    b = -gained - lost + (2 * rows - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    only_reference = (sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = rows * (2 * only_reference + difference * (1 - difference))
    distance = gained - lost - rows * difference
    return distance / sqrt(variance) if variance > 0 else (inf if distance > 0 else 0.0)


def auc_difference(reference: Array, candidate: Array, is_positive: Array, confidence: float) -> Difference:
    """From scores of the positive class ([N] both) and which rows are positive ([N] bool).

    Raises ValueError unless there are at least two positive and two negative rows: the variance needs them.
    """
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    if min(positives, negatives) < 2:
        raise ValueError(f"need two rows of each class, got {positives} positive and {negatives} negative")
    ranks = [_placements(scores, is_positive) for scores in (reference, candidate)]
    of_positives = ranks[1][0] - ranks[0][0]
    of_negatives = ranks[1][1] - ranks[0][1]
    variance = of_positives.var(ddof=1) / positives + of_negatives.var(ddof=1) / negatives
    areas = [float(placed.mean()) for placed, _ in ranks]
    lower = areas[1] - areas[0] - NormalDist().inv_cdf(confidence) * sqrt(variance)
    return Difference(areas[0], areas[1], float(lower))


def _placements(scores: Array, is_positive: Array) -> tuple[Array, Array]:
    """For each positive row the share of negatives it beats, for each negative the share of positives that
    beat it; ties count half. DeLong's V10 and V01."""
    positives, negatives = scores[is_positive], scores[~is_positive]
    overall = midranks(np.concatenate([positives, negatives]))
    count_positive, count_negative = len(positives), len(negatives)
    of_positives = (overall[:count_positive] - midranks(positives)) / count_negative
    of_negatives = 1 - (overall[count_positive:] - midranks(negatives)) / count_positive
    return of_positives, of_negatives


def midranks(values: Array) -> Array:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse])

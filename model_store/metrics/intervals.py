"""Bounds of what two models differ by on the same rows. Pure numpy, nothing drawn at random.

Two models answer the same rows, so their mistakes are strongly correlated: intervals for independent
samples would be far too wide, and a plain difference says nothing about chance. Where few rows differ, or
none, Wald's interval and every bootstrap shrink to a point and pass anything (docs/decisions/0017, 0122).
Sources:

- Shares of rows: Tango, "Equivalence test and confidence interval for the difference in proportions for the
  paired-sample design", Statistics in Medicine 17 (1998) 891-908: the score interval.
- Means, and ratios of means: the same idea for rows of unequal weight. Under the limit that is tested the
  variance is what was seen and what must be hidden: rows that lose `harm` each, as Poisson events. Solved
  like Fieller's interval ("Some problems in interval estimation", JRSS B 16 (1954) 175-185), which it is
  for harm 0; for events of one size it is the Poisson score interval.
- Sums over strata: MOVER, Zou & Donner, "Construction of confidence limits about effect measures",
  Statistics in Medicine 27 (2008) 1693-1702.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log, sqrt
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from model_store.metrics.base import TooFewRows

Array = np.ndarray[Any, Any]


class Bounds(NamedTuple):
    """One-sided, each at the confidence asked for."""

    lower: float
    upper: float


def share_bounds(reference: Array, candidate: Array, confidence: float) -> Bounds:
    """Of share(candidate) - share(reference), from which rows each got right ([N] bool both)."""
    rows = _same_rows(reference, candidate)
    gained, lost = int(np.sum(candidate & ~reference)), int(np.sum(reference & ~candidate))
    lower = tango_lower_bound(gained, lost, rows, confidence)
    return Bounds(lower, -tango_lower_bound(lost, gained, rows, confidence))


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


def mean_bounds(differences: Array, confidence: float, *, harm: float) -> Bounds:
    """Of the mean of candidate minus reference ([N], a row or a group each).

    `harm`: how much one row may change that these rows happen not to show.
    """
    return ratio_bounds(differences, np.ones(len(differences)), confidence, harm=harm)


def ratio_bounds(above: Array, below: Array, confidence: float, *, harm: float) -> Bounds:
    """Of mean(above) / mean(below) ([N] both, the same rows), mean(below) > 0; `harm` in units of `above`.

    Raises `TooFewRows` when the denominator itself cannot be told from 0.
    """
    rows = _same_rows(above, below)
    if rows < 2:
        raise TooFewRows(f"{rows} rows have no spread, and without it nothing can be said with confidence")
    mean_above, mean_below = float(above.mean()), float(below.mean())
    (var_above, covariance), (_, var_below) = np.cov(above, below, ddof=1).tolist()
    by_chance = quantile(rows - 1, confidence) ** 2 / rows
    hidden = unseen_events(confidence) * harm / rows
    a = mean_below**2 - by_chance * var_below
    if a <= 0 or mean_below <= 0:
        raise TooFewRows(f"{rows} rows are too few: what the difference is a share of may as well be 0")
    b = 2 * by_chance * covariance - 2 * mean_below * mean_above
    c = mean_above**2 - by_chance * var_above
    lower = -_largest_root(a, -b - hidden * mean_below, c - hidden * mean_above)
    return Bounds(lower, _largest_root(a, b - hidden * mean_below, c + hidden * mean_above))


def _largest_root(a: float, b: float, c: float) -> float:
    return (sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)


def variance_reach(variance: float, rows: int, degrees: int, confidence: float, *, harm: float) -> float:
    """How far from an estimate of this variance its one-sided bound is, with `harm` as in `mean_bounds`.

    `degrees`: how many of the `rows` say something of the variance, less one.
    """
    half = unseen_events(confidence) * harm / (2 * rows)
    return half + sqrt(half**2 + quantile(degrees, confidence) ** 2 * variance)


def unseen_events(confidence: float) -> float:
    """The most events to be expected where none was seen: z squared as in Wilson's interval, or the exact
    -log(1 - confidence) ("rule of three") where that is more."""
    return max(NormalDist().inv_cdf(confidence) ** 2, -log(1 - confidence))


def quantile(degrees: int, confidence: float) -> float:
    """Student's t, through scipy.special: scipy.stats takes seconds to import."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, confidence))


def sum_bounds(differences: Sequence[float], parts: Sequence[Bounds], weights: Sequence[float]) -> Bounds:
    """Of the weighted sum of independent differences, each with its own bounds (MOVER)."""
    total = sum(w * d for w, d in zip(weights, differences, strict=True))
    zipped = list(zip(weights, differences, parts, strict=True))
    down = sqrt(sum((w * (d - part.lower)) ** 2 for w, d, part in zipped))
    up = sqrt(sum((w * (part.upper - d)) ** 2 for w, d, part in zipped))
    return Bounds(total - down, total + up)


def typical_size(changes: Array) -> float:
    """Of the changes of single rows, weighted by themselves: sum of squares over sum of sizes, 0 for none.

    It is the variance that rows of such sizes add for each unit of mean that they add.
    """
    sizes = np.abs(changes)
    total = float(sizes.sum())
    return float((sizes**2).sum()) / total if total else 0.0


def _same_rows(one: Array, other: Array) -> int:
    if len(one) == 0 or len(one) != len(other):
        raise TooFewRows(f"need the same rows of both models, got {len(one)} and {len(other)}")
    return len(one)

"""How well rows are ranked within their groups: NDCG, MAP, hit rate, each among the first k or all.

The mean over groups that have at least two rows and one relevant row: any order of others is as good. Equal
scores count as any order of theirs would on average, so that nobody gains by the order of the file.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from model_store.errors import Permanent
from model_store.metrics.base import Needs, Prediction, Task, TooFewRows, Truth
from model_store.metrics.kinds import Gain, scores_of, values_of
from model_store.metrics.registry import Family

Array = np.ndarray[Any, Any]
RANKING: frozenset[Task] = frozenset({"ranking"})


class Ranked(NamedTuple):
    """Rows in order: by group, and within it the best score first. All [n] but `groups`.

    `place` counts from 1 in the group. `tie` numbers runs of equal scores, `first` is the place of the run's
    first row. `gain` is how relevant the row is.
    """

    groups: int
    group: Array
    place: Array
    tie: Array
    first: Array
    gain: Array


class RankingMetric(Gain):
    """The mean over groups; `k` None: all rows of a group."""

    tasks = RANKING
    needs: Needs = "scores"

    def __init__(self, base: str, k: str | None) -> None:
        if k is not None and (not k.isdigit() or int(k) < 1):
            raise ValueError(f"k is a whole number from 1, not {k}")
        self.k = None if k is None else int(k)
        self.name = base if k is None else f"{base}_{self.k}"

    def value(self, truth: Truth, said: Prediction) -> float:
        """The mean over groups."""
        return float(self.gains(truth, said).mean())

    def gains(self, truth: Truth, said: Prediction) -> Array:
        """[groups] between 0 and 1."""
        gain, group = _that_count(truth, self.name)
        scores = scores_of(said, self.name).reshape(len(truth))
        return self.of_groups(_rank(group, scores[group >= 0], gain))

    def of_groups(self, ranked: Ranked) -> Array:
        """[groups] of rows in the model's order."""
        raise NotImplementedError

    def blind(self, truth: Truth) -> Prediction | None:
        """All rows alike: a random order."""
        return Prediction(scores=np.zeros(len(values_of(truth))))


class NDCG(RankingMetric):
    """Discounted gain against the best order's; gains are the values themselves, as in
    sklearn.metrics.ndcg_score, not 2 to their power."""

    def __init__(self, k: str | None = None) -> None:
        super().__init__("ndcg", k)

    def of_groups(self, ranked: Ranked) -> Array:
        """Mean gain of each run of equal scores times the discounts of its places."""
        best = _rank(ranked.group, ranked.gain, ranked.gain)
        return np.asarray(self._discounted(ranked) / self._discounted(best))

    def _discounted(self, ranked: Ranked) -> Array:
        discount = 1 / np.log2(ranked.place + 1)
        if self.k is not None:
            discount = np.where(ranked.place <= self.k, discount, 0.0)
        counts = np.bincount(ranked.tie)
        mean_gain = np.bincount(ranked.tie, weights=ranked.gain) / counts
        return np.bincount(ranked.group, weights=mean_gain[ranked.tie] * discount, minlength=ranked.groups)


class MAP(RankingMetric):
    """Mean of the precision at each relevant row (value above 0) among the first k, over the relevant rows
    there could be."""

    def __init__(self, k: str | None = None) -> None:
        super().__init__("map", k)

    def of_groups(self, ranked: Ranked) -> Array:
        """Expected over the orders of equal scores: a place in a run of t rows with r relevant is relevant
        with chance r / t, and then (r - 1) / (t - 1) of the run's places before it are."""
        counts, hits = _of_runs(ranked)
        before = _hits_before(ranked, hits)
        t, r = counts[ranked.tie], hits[ranked.tie]
        others = (ranked.place - ranked.first) * np.divide(r - 1, t - 1, out=np.zeros_like(r), where=t > 1)
        found = r / t * (before[ranked.tie] + 1 + others) / ranked.place
        relevant = np.bincount(ranked.group, weights=ranked.gain > 0, minlength=ranked.groups)
        if self.k is not None:
            found = np.where(ranked.place <= self.k, found, 0.0)
            relevant = np.minimum(relevant, self.k)
        return np.asarray(np.bincount(ranked.group, weights=found, minlength=ranked.groups) / relevant)


class HitRate(RankingMetric):
    """Share of groups with a relevant row (value above 0) among the first k."""

    def __init__(self, k: str) -> None:
        super().__init__("hit_rate", k)

    def of_groups(self, ranked: Ranked) -> Array:
        """One minus the chance that no run has a relevant row in its places among the first k."""
        from scipy.special import gammaln

        assert self.k is not None
        counts, hits = _of_runs(ranked)
        starts = np.flatnonzero(np.diff(ranked.tie, prepend=-1))
        drawn = np.clip(self.k + 1 - ranked.first[starts], 0, counts)
        rest = np.maximum(counts - hits - drawn, 0)
        log_none = gammaln(counts - hits + 1) - gammaln(rest + 1) - gammaln(counts + 1)
        log_none += gammaln(counts - drawn + 1)
        none = np.where(drawn > counts - hits, 0.0, np.exp(log_none))
        result = np.ones(ranked.groups)
        np.multiply.at(result, ranked.group[starts], none)
        return 1 - result


def _that_count(truth: Truth, name: str) -> tuple[Array, Array]:
    """Gains of the rows whose group counts, and [N] the number of each row's group, -1 if it does not."""
    gain = values_of(truth)
    if truth.groups is None:
        raise Permanent(f"{name} needs groups", remedy="say in the spec which column groups the rows")
    if (gain < 0).any():
        raise Permanent(
            f"{name} needs values of at least 0, and {int((gain < 0).sum())} of {len(gain)} rows are below",
            remedy="shift the label column, so that 0 is not relevant at all",
        )
    _, group, rows = np.unique(truth.groups, return_inverse=True, return_counts=True)
    counts = (rows > 1) & (np.bincount(group, weights=gain) > 0)
    if not counts.any():
        raise TooFewRows(f"none of {len(rows)} groups has two rows and a relevant one")
    numbered = np.where(counts, np.cumsum(counts) - 1, -1)[group]
    return gain[numbered >= 0], numbered


def _rank(group: Array, scores: Array, gain: Array) -> Ranked:
    group = group[group >= 0]
    order = np.lexsort((-scores, group))
    group, scores, gain = group[order], scores[order], gain[order]
    starts_group = np.diff(group, prepend=-1) != 0
    starts_run = starts_group | (np.diff(scores, prepend=scores[0]) != 0)
    index = np.arange(len(group))
    place = index - np.maximum.accumulate(np.where(starts_group, index, 0)) + 1
    tie = np.cumsum(starts_run) - 1
    return Ranked(int(group[-1]) + 1, group, place, tie, place[starts_run][tie], gain)


def _of_runs(ranked: Ranked) -> tuple[Array, Array]:
    """[runs] float64: rows, and relevant rows."""
    counts = np.bincount(ranked.tie).astype(float)
    return counts, np.bincount(ranked.tie, weights=ranked.gain > 0)


def _hits_before(ranked: Ranked, hits: Array) -> Array:
    """[runs] relevant rows of the group before the run."""
    starts = np.flatnonzero(np.diff(ranked.tie, prepend=-1))
    before = np.cumsum(hits) - hits
    is_first = ranked.place[starts] == 1
    return np.asarray(before - np.maximum.accumulate(np.where(is_first, before, 0)))


METRICS = (
    NDCG(),
    Family("ndcg_<k>", RANKING, NDCG),
    MAP(),
    Family("map_<k>", RANKING, MAP),
    Family("hit_rate_<k>", RANKING, HitRate),
)

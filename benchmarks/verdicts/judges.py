"""Our judge and restatements of three others, all shown the same streams.

The others' rules are restated from their documentation and source as stored on 2026-11-21; each class names
them. Where a document leaves something open, what is better for that judge was taken.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.verdicts.streams import Floats, Ints, Scenario, Tick
from serving.control.analysis import AnalysisPolicy
from serving.control.analysis.accumulation import Ticks, blank, take
from serving.control.analysis.evidence import limits_of
from serving.control.analysis.rules import needed
from serving.control.analysis.state import JudgeMemory

Bools = NDArray[np.bool_]


class Judge(Protocol):
    """Sees one span after another and says which releases it takes back at its end."""

    name: str

    def see(self, tick: Tick, at: float, seconds: float) -> Bools: ...


class Ours:
    """`serving.control.analysis` itself, at every look. Spans without a candidate request are given in one
    piece
    with the next one that has any: no bet is made in them, so that changes nothing but the time it takes.
    """

    def __init__(
        self, scenario: Scenario, releases: int, policy: AnalysisPolicy, name: str = "Slipway"
    ) -> None:
        self.name = name
        self._share = scenario.share
        self._limits = limits_of(policy)
        self._memory = blank(releases)
        self._rows = list(needed(policy))
        self._needed = np.array(list(needed(policy).values()))
        # Stable's requests, errors, slow, refused, and seconds, not yet given.
        self._held = np.zeros((releases, 5))
        self._over = np.zeros(releases, dtype=bool)

    def see(self, tick: Tick, at: float, seconds: float) -> Bools:
        passed = np.full(len(self._over), seconds)
        stable = (tick.stable, tick.stable_errors, tick.stable_slow, tick.stable_refused)
        self._held += np.stack([*stable, passed], axis=1)
        busy = ~self._over & ((tick.candidate > 0) | (self._memory["waiting_candidate"][:, 0] > 0))
        some = np.flatnonzero(busy)
        if len(some):
            part = JudgeMemory(self._memory.rows[some])
            take(self._limits, part, self._ticks(tick, some))
            self._memory.rows[some] = part.rows
            self._held[some] = 0
            self._over[some] = (part["peak"][:, self._rows] >= self._needed).any(axis=1)
        return self._over

    def _ticks(self, tick: Tick, some: Ints) -> Ticks:
        held, zero = self._held[some], np.zeros(len(some))
        counts = (tick.candidate, tick.candidate_errors, tick.candidate_slow, tick.candidate_refused)
        candidate = np.stack([count[some] for count in counts], axis=1)
        return Ticks(
            stable=_arm(held[:, :4]),
            candidate=_arm(candidate),
            compared=np.zeros((len(some), 2)),
            share=np.full(len(some), self._share),
            step=zero,
            retries=np.zeros(len(some), dtype=bool),
            seconds=held[:, 4],
        )


def _arm(counts: Ints | Floats) -> Floats:
    """As the judge takes them: every other refusal is by the model, the rest are malformed."""
    refused = counts[:, 3]
    none = np.zeros(len(counts))
    return np.column_stack([counts[:, :3], refused // 2, refused - refused // 2, none]).astype(float)


class Argo:
    """Argo Rollouts' documented background analysis `success-rate`.

    `interval: 5m`, `successCondition: result[0] >= 0.95`, `failureLimit: 3`, Istio's success rate by
    `irate(...[5m])`, so by the last two scrapes (here 15 s apart); a run fails when more than
    `failureLimit` measurements failed (`assessMetricStatus`: `result.Failed > metric.FailureLimit`), and no
    requests (NaN) fail nothing. https://argoproj.github.io/argo-rollouts/features/analysis/
    """

    name = "Argo Rollouts"
    interval, scrape, limit = 300.0, 15.0, 3

    def __init__(self, releases: int) -> None:
        self._window = np.zeros((releases, 2))
        self._failed = np.zeros(releases, dtype=int)

    def see(self, tick: Tick, at: float, seconds: float) -> Bools:
        end = at + seconds
        if at % self.scrape == 0:
            self._window[:] = 0
        self._window += np.stack([tick.candidate, tick.candidate_errors], axis=1)
        if end % self.interval == 0:
            requests, errors = self._window.T
            self._failed += (requests > 0) & (requests - errors < 0.95 * requests)
        return self._failed > self.limit


class Flagger:
    """Flagger's documented canary: `interval: 1m`, `threshold: 10`, `request-success-rate` `min: 99` over 1m,
    `stepWeight: 5`, `maxWeight: 50`.

    A check without requests fails ("no values found"). Failed checks are never forgotten
    (`FailedChecks+1`); at the run after the tenth the canary is rolled back; after ten that passed, it is
    promoted and no longer looked at. https://docs.flagger.app/usage/how-it-works
    """

    name = "Flagger"
    interval, threshold, steps = 60.0, 10, 10

    def __init__(self, releases: int) -> None:
        self._window = np.zeros((releases, 2))
        self._failed = np.zeros(releases, dtype=int)
        self._passed = np.zeros(releases, dtype=int)
        self._over = np.zeros(releases, dtype=bool)

    def see(self, tick: Tick, at: float, seconds: float) -> Bools:
        if at % self.interval == 0:
            self._window[:] = 0
        self._window += np.stack([tick.candidate, tick.candidate_errors], axis=1)
        if (at + seconds) % self.interval == 0:
            self._over |= (self._failed >= self.threshold) & (self._passed < self.steps)
            requests, errors = self._window.T
            good = (requests > 0) & (requests - errors >= 0.99 * requests)
            self._failed += ~good
            self._passed += good & (self._failed < self.threshold)
        return self._over


class Kayenta:
    """Kayenta's `NetflixACAJudge-v1.0` on the error rate per minute, judged once, after an hour.

    Mann-Whitney confidence interval at 98 %, high if its lower end is over a quarter of the
    Hodges-Lehmann estimate (`MannWhitneyClassifier`: `tolerance = 0.25, confLevel = 0.98`), direction
    "increase", missing data replaced by 0, outliers beyond 3 interquartile ranges and the 1st and 99th
    percentile removed; at least 50 points are asked for ("best practices"), one a minute is the usual step.
    https://spinnaker.io/docs/guides/user/canary/judge/
    """

    name = "Kayenta"
    step, points, quantile, tolerance = 60.0, 60, 2.3263478740408408, 0.25

    def __init__(self, releases: int) -> None:
        self._window = np.zeros((releases, 4))
        self._points: list[Floats] = []
        self._over = np.zeros(releases, dtype=bool)

    def see(self, tick: Tick, at: float, seconds: float) -> Bools:
        if at % self.step == 0:
            self._window[:] = 0
        arms = (tick.stable, tick.stable_errors, tick.candidate, tick.candidate_errors)
        self._window += np.stack(arms, axis=1)
        if (at + seconds) % self.step == 0:
            requests, errors = self._window[:, [0, 2]], self._window[:, [1, 3]]
            self._points.append(errors / np.maximum(requests, 1))
            if len(self._points) == self.points:
                rates = np.stack(self._points, axis=2)
                self._over = np.array([self._is_high(stable, canary) for stable, canary in rates])
        return self._over

    def _is_high(self, control: Floats, experiment: Floats) -> bool:
        control, experiment = _without_outliers(control), _without_outliers(experiment)
        if np.array_equal(np.sort(control), np.sort(experiment)):
            return False
        differences = np.subtract.outer(experiment, control)
        bound = self.tolerance * abs(float(np.median(differences)))
        return _wilcoxon(differences - bound, np.concatenate([experiment - bound, control])) > self.quantile


def _without_outliers(values: Floats) -> Floats:
    low, high, first, last = np.percentile(values, [25, 75, 1, 99], method="weibull")
    reach = 3 * (high - low)
    inside = (values >= min(low - reach, first)) & (values <= max(high + reach, last))
    return np.asarray(values[inside])


def _wilcoxon(differences: Floats, pooled: Floats) -> float:
    """Kayenta's `wilcoxonDiff`: the standardised Mann-Whitney statistic, corrected for ties."""
    x, y = differences.shape
    z = np.sum(differences > 0) + np.sum(differences == 0) / 2 - x * y / 2
    _, ties = np.unique(pooled, return_counts=True)
    spread = (x + y + 1) - np.sum(ties.astype(float) ** 3 - ties) / ((x + y) * (x + y - 1))
    return float((z - np.sign(z) / 2) / np.sqrt(x * y / 12 * spread)) if spread > 0 else 0.0

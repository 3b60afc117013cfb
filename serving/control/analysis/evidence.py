"""E-processes: how much the counts speak against "the candidate is no worse".

An e-process is the money of someone who bets, at fair or worse odds, that the candidate is bad. While the
candidate is no worse, the expected money never grows, so by Ville's inequality the chance that it ever
reaches 1/alpha is at most alpha, however often one looks (Ramdas, Gruenwald, Vovk, Shafer, "Game-theoretic
statistics and safe anytime-valid inference", 2023). Each test below spreads its money over `LEVELS`
rates the bad candidate may have, and keeps a reserve that is placed bit by bit, so that a candidate that
turns bad after hours is still found (a mixture over the time of change). docs/verdicts.md derives it all.

Every array has a row per test (`TESTS`) and a column per level; batches of services lead. Last come
confidence sequences, for those who look at a rate: intervals that hold it at every look at once, not just at
one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from serving.control.analysis.policy import AnalysisPolicy

Array = NDArray[np.float64]

TESTS = (
    "errors over stable's by the tolerance",
    "errors over stable's",
    "slow over stable's",
    "errors over the ceiling",
    "slow over the ceiling",
    "disagreement over the ceiling",
    "requests under the share",
    "failures over those of their repeats on stable",
    "refusals over what stable leaves unanswered, by the tolerance",
)
TWO_ARM = 4  # the first three and the last compare arms; the others compare with a fixed number
LEVELS = 10
NEAR = np.array([0.15, 0.45] + [0.0] * (LEVELS - 2))
FAR = np.array([0.0, 0.0, *np.linspace(0, 1, LEVELS - 2)])
# Of the money, per level. More of it on large harm, where few requests must do; a small excess takes so many
# that what its level lacks costs it little. Chosen by simulation (docs/verdicts.md).
PARTS = np.array([0.02, 0.02, 0.08, 0.08, 0.08, 0.09, 0.12, 0.16, 0.23, 0.12])
MOST = 1e150
LOST_LEVELS = np.geomspace(0.8, 0.01, LEVELS)  # of the least acceptable share
RESERVE = 0.1  # of the money is kept for changes later on
RESERVE_SECONDS = 600.0
USUAL_RATE = 0.001  # assumed of stable, with the weight of PRIOR_REQUESTS, until its own counts outweigh it
PRIOR_REQUESTS = 500.0
REPEATS_FAIL = 0.2  # as often as the candidate, at most, where stable is better


@dataclass(frozen=True, slots=True, eq=False)
class TestLimits:
    """A policy as arrays: the null's edge of each test, and the levels bet on beyond it."""

    tolerance: Array  # (services, TWO_ARM)
    alone: Array  # (services, TWO_ARM) the limit instead, where stable has no traffic
    fixed: Array  # (services, 3) errors, slow, disagreement
    levels: Array  # (services, 3, LEVELS) the rates to bet on beyond `fixed`
    repeats: Array  # (services, LEVELS) the same for repeats on stable

    @classmethod
    def stack(cls, limits: Sequence[TestLimits]) -> TestLimits:
        """One row per service."""
        names = cls.__slots__
        return cls(*(np.concatenate([getattr(one, name) for one in limits]) for name in names))

    def of(self, services: NDArray[np.bool_]) -> TestLimits:
        """Of some services only; what was made for one service goes for all."""
        if len(self.tolerance) == 1:
            return self
        return TestLimits(*(getattr(self, name)[services] for name in self.__slots__))


@lru_cache(maxsize=1024)
def limits_of(policy: AnalysisPolicy) -> TestLimits:
    """A policy as arrays of one service; made once per policy."""
    disagreement = 0.5 if policy.max_disagreement is None else policy.max_disagreement
    fixed = np.array([[policy.max_error_rate, policy.max_slow_share, disagreement]])
    return TestLimits(
        tolerance=np.array([[policy.error_tolerance, 0.0, 0.0, policy.error_tolerance]]),
        alone=np.array([[1.0, policy.max_error_rate, policy.max_slow_share, 1.0]]),
        fixed=fixed,
        levels=levels_over(fixed),
        repeats=levels_over(np.array([policy.error_tolerance + USUAL_RATE])),
    )


def levels_over(edge: Array) -> Array:
    """The rates to bet on where `edge` is just acceptable: two close to it, the rest geometric up to all.

    Close ones find a small excess in very many requests; without them it would never be found.
    """
    edge = np.clip(edge, 1e-9, 1 - 1e-6)[..., None]
    low = np.minimum(1.8 * edge, (edge + 1) / 2)
    high = np.maximum(0.98, (edge + 3) / 4)
    far = low * np.exp(np.log(high / low) * FAR)
    levels: Array = np.where(NEAR > 0, edge + (low - edge) * NEAR, far)
    return levels


def opening() -> Array:
    """The money on each bet before the first tick: (tests, levels). All of a test's money is 1."""
    return np.tile((1 - RESERVE) * PARTS, (len(TESTS), 1))


def reserve(seconds: Array) -> Array:
    """The money of each test not yet bet, when `seconds` were watched: R(t) = R(0) T / (T + t)."""
    return RESERVE * RESERVE_SECONDS / (RESERVE_SECONDS + seconds)


def grown(wealth: Array, log_factors: Array) -> Array:
    """Money after a tick. It is kept under MOST, which can only make evidence weaker."""
    return np.minimum(wealth * np.exp(np.minimum(log_factors, 340.0)), MOST)


def two_arm_log_factors(
    stable: tuple[Array, Array],
    candidate: tuple[Array, Array],
    usual: Array,
    tolerance: Array,
    levels: Array,
    alone: NDArray[np.bool_],
    limit: Array,
) -> Array:
    """Log growth of bets that the candidate fails at `levels`, against "at most stable's rate + tolerance".

    `stable` and `candidate` are (requests, failures) of the tick. `usual` is what stable is expected to
    fail, from earlier ticks only. Where `alone` (stable gets no traffic) the null is "at most `limit`".
    Valid whatever stable's rate is and however it moves from tick to tick: the bet on a candidate request
    is 1 + g (y - q - tolerance), on a stable one 1 - h (y - q), with h n_stable = g n_candidate, so the
    unknown rate cancels in the expected growth. q is the null's most likely rate under the level bet on,
    which makes growth the fastest there is (Turner, Ly, Gruenwald, "Generic E-variables for exact
    sequential k-sample tests that allow for optional stopping", 2024, arXiv 2106.02693).
    """
    n_s, e_s = stable
    n_c, e_c = candidate
    # d/dq of the two divergences is 0: a quadratic in q, exact at tolerance 0 and close elsewhere
    total = np.maximum(n_s + n_c, 1)
    half = (n_s * (tolerance - usual) + n_c * (tolerance - levels)) / (2 * total)
    q = np.minimum(np.sqrt(half * half + n_s * usual * tolerance / total) - half, 1 - 1e-9)
    edge = np.where(alone, limit, q + tolerance)
    edge = np.clip(edge, 1e-9, 1 - 1e-9)
    g = np.maximum((levels - edge) / (edge * (1 - edge)), 0.0)
    g = np.minimum(g, np.where(alone | (n_c == 0), np.inf, 0.999 * n_s / (np.maximum(n_c, 1) * (1 - q))))
    h = np.where(alone, 0.0, g * n_c / np.maximum(n_s, 1))
    growth: Array = (
        e_c * np.log1p(g * (1 - edge))
        + (n_c - e_c) * np.log1p(-np.minimum(g * edge, 1 - 1e-12))
        + e_s * np.log1p(-np.minimum(h * (1 - q), 1 - 1e-12))
        + (n_s - e_s) * np.log1p(h * q)
    )
    return growth


def fixed_log_factors(counts: tuple[Array, Array], edge: Array, levels: Array) -> Array:
    """Log likelihood ratio of `levels` against `edge` for (requests, failures): Wald's test per level."""
    n, e = counts
    return e * np.log(levels / edge) + (n - e) * np.log((1 - levels) / (1 - edge))


def repeat_log_factors(candidate: tuple[Array, Array], repeats: tuple[Array, Array], levels: Array) -> Array:
    """Log growth of bets that the candidate fails at `levels` while repeats of its failures succeed.

    `repeats` are (requests, failures) on stable, there only because the candidate failed. The bets are
    1 + g (y - q) on a candidate request and 1 - g/b (y - q) on the repeat of a failed one, b being the
    level: at any common rate r the expected growth is 1 - (g/q) (r - q)^2, never above 1.
    """
    n_c, e_c = candidate
    n_r, e_r = repeats
    q = levels * (1 + levels * REPEATS_FAIL) / (1 + levels)
    g = (levels - q) / (q * (1 - q))
    return (
        e_c * np.log1p(g * (1 - q))
        + (n_c - e_c) * np.log1p(-g * q)
        + e_r * np.log1p(-g / levels * (1 - q))
        + (n_r - e_r) * np.log1p(g / levels * q)
    )


_HALVINGS = 60


def confidence_sequence(requests: Array, failures: Array, *, alpha: float = 0.05) -> tuple[Array, Array]:
    """Lowest and highest failure rate in line with the counts, per entry of `requests` and `failures`.

    The rates p at which the Beta(1/2, 1/2) mixture likelihood ratio against p is below 1/alpha; with chance
    1 - alpha a constant rate is inside at all looks together (Robbins, "Statistical methods related to the
    law of the iterated logarithm", 1970; Ville's inequality). No requests give (0, 1).
    """
    n, e = np.broadcast_arrays(np.asarray(requests, dtype=float), np.asarray(failures, dtype=float))
    most = -math.log(alpha)
    mixture = _log_beta(e + 0.5, n - e + 0.5) - math.log(math.pi)
    rate = np.divide(e, n, out=np.full(n.shape, 0.5), where=n > 0)
    low = _edge(mixture, n, e, inside=rate, outside=np.zeros(n.shape), most=most)
    high = _edge(mixture, n, e, inside=rate, outside=np.ones(n.shape), most=most)
    return low, high


def _edge(mixture: Array, n: Array, e: Array, *, inside: Array, outside: Array, most: float) -> Array:
    """Halve towards where the evidence against a rate reaches `most` nats."""
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            likelihood = _times_log(e, middle) + _times_log(n - e, 1 - middle)
        is_inside = mixture - likelihood < most
        inside, outside = np.where(is_inside, middle, inside), np.where(is_inside, outside, middle)
    return np.asarray(outside)


def _times_log(count: Array, rate: Array) -> Array:
    return np.where(count > 0, count * np.log(rate), 0.0)


def _log_beta(a: Array, b: Array) -> Array:
    log_gamma = np.vectorize(math.lgamma, otypes=[float])
    return np.asarray(log_gamma(a) + log_gamma(b) - log_gamma(a + b))

"""The bets are fair: exact expectations, no simulation."""

import itertools
import math

import numpy as np
import pytest

from serving.control.analysis.evidence import (
    LEVELS,
    PARTS,
    Array,
    fixed_log_factors,
    grown,
    opening,
    repeat_log_factors,
    reserve,
    two_arm_log_factors,
)

RATES = (0.0, 0.0005, 0.01, 0.03, 0.2, 0.7, 0.99)
BETS = np.geomspace(0.002, 0.98, LEVELS)


def betting(n_s: int, n_c: int, *, tolerance: float, usual: float) -> Array:
    """Log growth of every bet for every outcome: (stable's failures, the candidate's, bets)."""
    e_s, e_c = np.mgrid[0 : n_s + 1, 0 : n_c + 1][..., None].astype(float)
    one = np.ones(1)
    return two_arm_log_factors(
        (n_s * one, e_s),
        (n_c * one, e_c),
        usual=usual * one,
        tolerance=tolerance * one,
        levels=BETS,
        alone=np.zeros(1, bool),
        limit=one,
    )


def _pair(n: int, hits: int) -> tuple[Array, Array]:
    return np.array(float(n)), np.array(float(hits))


def chances(n: int, rate: float) -> Array:
    ways = [math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(n + 1)]
    return np.array(ways)


@pytest.mark.parametrize("tolerance", [0.0, 0.005, 0.1])
@pytest.mark.parametrize(("n_s", "n_c"), [(1, 1), (9, 1), (1, 9), (5, 5), (40, 2), (2, 12), (0, 3), (3, 0)])
def test_no_bet_is_expected_to_grow_while_the_candidate_is_no_worse(
    n_s: int, n_c: int, tolerance: float
) -> None:
    for rate, usual, slack in itertools.product(RATES, (1e-5, 0.001, 0.3), (0.0, 0.5)):
        worse = min(rate + tolerance * (1 - slack), 1.0)
        grows = np.exp(betting(n_s, n_c, tolerance=tolerance, usual=usual))
        expected = np.einsum("s,c,scb->b", chances(n_s, rate), chances(n_c, worse), grows)
        assert np.all(expected <= 1 + 1e-9), (rate, usual, expected)


def test_bets_on_a_worse_candidate_grow_as_fast_as_the_best_possible_e_value() -> None:
    # Growth at the level bet on, with a known usual rate, is the divergence from the nearest null rates.
    usual, level, n_s, n_c = 0.001, float(BETS[5]), 9, 1
    rates = np.linspace(usual, level, 200_001)[1:-1]
    divergence = n_s * _kl(usual, rates) + n_c * _kl(level, rates)
    grows = betting(n_s, n_c, tolerance=0.0, usual=usual)[..., 5]
    assert chances(n_s, usual) @ grows @ chances(n_c, level) == pytest.approx(divergence.min(), rel=1e-3)


def _kl(p: float, q: Array) -> Array:
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def test_arms_with_nothing_to_compare_bet_nothing() -> None:
    assert betting(0, 7, tolerance=0.0, usual=0.001) == pytest.approx(0)
    assert betting(7, 0, tolerance=0.005, usual=0.001) == pytest.approx(0)


@pytest.mark.parametrize("n_c", [1, 6, 15])
@pytest.mark.parametrize("stable_extra", [0.0, 0.2])
def test_no_bet_on_repeats_is_expected_to_grow_while_stable_fails_as_often(
    n_c: int, stable_extra: float
) -> None:
    for rate in RATES:
        expected = sum(
            chances(n_c, rate)[e_c]
            * chances(e_c, min(rate + stable_extra, 1))[e_r]
            * np.exp(repeat_log_factors(_pair(n_c, e_c), _pair(e_c, e_r), BETS))
            for e_c in range(n_c + 1)
            for e_r in range(e_c + 1)
        )
        assert np.all(expected <= 1 + 1e-9), (rate, expected)


def test_a_fixed_limit_is_tested_by_walds_likelihood_ratio() -> None:
    by_hand = 3 * math.log(0.2 / 0.01) + 7 * math.log(0.8 / 0.99)
    assert fixed_log_factors(_pair(10, 3), np.array(0.01), np.array([0.2]))[0] == pytest.approx(by_hand)


def test_no_money_appears_when_the_reserve_is_placed() -> None:
    wealth = opening()
    for second in range(4):
        before, after = reserve(np.array([second, second + 1.0]))
        wealth = grown(wealth + (before - after) * PARTS, np.zeros_like(wealth))
        assert wealth.sum(axis=-1) + after == pytest.approx(1)


def test_evidence_beyond_counting_is_kept_finite() -> None:
    assert grown(np.array([1e140, 1.0]), np.array([1000.0, -1e6])).tolist() == [1e150, 0.0]

"""Healthy releases by the thousand, looked at after every tick, with an alpha large enough to measure."""

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.control.analysis import AnalysisPolicy
from serving.control.analysis.accumulation import Ticks, blank, take
from serving.control.analysis.evidence import Array, limits_of
from serving.control.analysis.rules import REPEATS_DOUBT, REPEATS_ROW, needed
from serving.control.analysis.state import ERRORS, REFUSED, JudgeMemory

RELEASES, TICKS = 300, 320
LOOSE = AnalysisPolicy(
    alpha=0.2,
    max_error_rate=0.2,
    error_tolerance=0.0,
    latency_objective_ms=500,
    max_slow_share=0.2,
    min_requests=1,
    max_disagreement=0.05,
)


def play(
    *, usual: Array, share: Array, retries: bool = False, worse: float = 0.0, seed: int = 1
) -> JudgeMemory:
    """`usual` is both arms' rate, `share` the candidate's, per tick; `worse` is added to its rate."""
    rng, memory, limits = np.random.default_rng(seed), blank(RELEASES), limits_of(LOOSE)
    for rate, part in zip(usual, share, strict=True):
        n_c, n_s = rng.poisson(12 * part, RELEASES), rng.poisson(12 * (1 - part), RELEASES)
        candidate = _arm(rng, n_c, rng.binomial(n_c, min(rate + worse, 1)), rate)
        repeated = (candidate[:, ERRORS] + candidate[:, REFUSED]).astype(int)
        n_s = n_s + (repeated if retries else 0)
        compared = rng.poisson(2, RELEASES)
        take(
            limits,
            memory,
            Ticks(
                stable=_arm(rng, n_s, rng.binomial(n_s, rate), rate),
                candidate=candidate,
                compared=_counts(compared, rng.binomial(compared, 0.05)),
                share=np.full(RELEASES, part),
                step=np.zeros(RELEASES),
                retries=np.full(RELEASES, retries),
                seconds=np.full(RELEASES, 0.25),
            ),
        )
    return memory


def _arm(rng: np.random.Generator, n: NDArray[np.int64], errors: NDArray[np.int64], rate: float) -> Array:
    """Of what did not fail, `rate` is refused by the model, and as much of the rest is malformed."""
    refused = rng.binomial(n - errors, rate)
    malformed = rng.binomial(n - errors - refused, rate)
    return _counts(n, errors, rng.binomial(n, rate), refused, malformed, rng.binomial(malformed, rate))


def _counts(*columns: NDArray[np.int64]) -> Array:
    return np.stack(columns, axis=1).astype(float)


def failed(memory: JudgeMemory) -> NDArray[np.bool_]:
    """Which releases some rule fails, by its own evidence."""
    rows, enough = zip(*needed(LOOSE).items(), strict=True)
    return np.asarray((memory["peak"][:, list(rows)] >= np.array(enough)).any(axis=1))


def flat(value: float) -> Array:
    return np.full(TICKS, value)


SWINGS = 0.15 * (1 + np.sin(np.linspace(0, 20, TICKS)))
JUMPS = np.where(np.arange(TICKS) % 100 < 20, 0.9, 0.01)
RISING_SHARES = np.repeat([0.01, 0.1, 0.5, 0.9], TICKS // 4)


@pytest.mark.parametrize("retries", [False, True])
@pytest.mark.parametrize(
    ("usual", "share"),
    [
        (flat(0.02), flat(0.1)),
        (flat(0.15), flat(0.5)),
        (SWINGS, flat(0.3)),
        (JUMPS, flat(0.5)),
        (JUMPS, RISING_SHARES),
        (SWINGS, RISING_SHARES),
    ],
)
def test_a_healthy_release_fails_no_more_often_than_alpha_whatever_both_arms_go_through(
    usual: Array, share: Array, retries: bool
) -> None:
    assert failed(play(usual=usual, share=share, retries=retries)).mean() <= LOOSE.alpha


def test_the_same_releases_do_fail_when_the_candidate_is_worse() -> None:
    assert failed(play(usual=SWINGS, share=flat(0.3), worse=0.2)).mean() > 0.99


def test_after_promotion_a_shared_outage_is_seldom_taken_for_the_releases_fault() -> None:
    share = np.repeat([0.5, 1.0], TICKS // 2)
    outage = np.repeat([0.01, 0.4], TICKS // 2)
    memory = play(usual=outage, share=share, retries=True)
    assert failed(memory).mean() > 0.99  # nobody is left to compare with: the limit alone would say FAIL
    assert (memory["peak"][:, REPEATS_ROW] >= REPEATS_DOUBT).mean() <= 1 / REPEATS_DOUBT

"""How few requests any test can do with: Wald's expected sample number, with and without a known base."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def expected_sample_number(usual: float, bad: float, *, alpha: float, miss: float) -> float:
    """Requests until a sequential probability ratio test of `usual` against `bad` ends, if it is bad.

    E[N] = ((1 - b) ln((1 - b) / a) + b ln(b / (1 - a))) / KL(bad || usual), Wald, "Sequential Tests of
    Statistical Hypotheses", 1945, eq. 4:8. It presumes that `usual` is known; and it is at least 1.
    """
    return max(_needed(alpha, miss) / float(_divergence(bad, np.array(usual))), 1.0)


def expected_of_two_arms(
    usual: float, bad: float, *, share: float, tolerance: float, alpha: float, miss: float
) -> float:
    """The same where `usual` is known only from the other arm's requests in the same time.

    The null is "the candidate fails at most as often as stable, plus `tolerance`", at whatever rate; what
    one candidate request tells is its divergence from the nearest such pair of rates, with (1 - share) /
    share requests of stable beside it. No test that must hold for every base rate learns faster.
    """
    rates = np.geomspace(usual, max(bad - tolerance, usual), 20_001)
    arms = _divergence(bad, np.minimum(rates + tolerance, 1 - 1e-12))
    arms = arms + (1 - share) / share * _divergence(usual, np.minimum(rates, 1 - 1e-12))
    return max(_needed(alpha, miss) / float(arms.min()), 1.0)


def fewest_requests(*, share: float, alpha: float) -> int:
    """Candidate requests before which no test may take back half of the candidates that fail all of theirs.

    If both arms fail at q, then n candidate requests all fail, and the m of stable beside them all succeed,
    with chance q^n (1 - q)^m, which is highest at q = n / (n + m). A test that fails a release then in half
    of all cases has a chance of half of that to fail a healthy one, and alpha is all it may have.
    """
    n = 1
    while 0.5 * share**n * (1 - share) ** (n * (1 - share) / share) > alpha:
        n += 1
    return n


def _needed(alpha: float, miss: float) -> float:
    return float((1 - miss) * np.log((1 - miss) / alpha) + miss * np.log(miss / (1 - alpha)))


def _divergence(p: float, q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of one request that fails at `p` from one that fails at `q`, in nats."""
    yes = p * np.log(p / q) if p > 0 else np.zeros_like(q)
    no = (1 - p) * np.log((1 - p) / (1 - q)) if p < 1 else np.zeros_like(q)
    return np.asarray(yes + no)

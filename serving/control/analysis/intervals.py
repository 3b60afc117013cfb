"""Confidence sequences: intervals that hold a rate at every look at once, not just at one."""

from __future__ import annotations

import math

import numpy as np

from serving.control.analysis.evidence import Array

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

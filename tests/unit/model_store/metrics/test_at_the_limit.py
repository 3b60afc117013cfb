"""A model exactly at the limit passes no more often than the confidence allows: simulated, seeded, small.

benchmarks/metric_limits.py is the long version, with all metrics, changes and numbers of rows.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.metric_limits import POPULATIONS, Change, passing
from model_store.metrics.intervals import mean_bounds, tango_lower_bound, unseen_events

REPEATS = 150
# 5 % and three standard errors of 150 samples.
MOST = 0.05 + 3 * (0.05 * 0.95 / REPEATS) ** 0.5


@pytest.mark.parametrize(
    ("population", "metrics"),
    [
        ("binary, even", ["accuracy", "f1", "auc", "average_precision", "log_loss", "calibration_error"]),
        ("multiclass, even", ["balanced_accuracy", "f1_macro", "top_3"]),
        ("multilabel, even", ["average_precision", "f1_micro", "hamming_loss"]),
        ("ranking", ["ndcg_3", "map_3", "hit_rate_3"]),
    ],
)
def test_three_broken_rows_do_not_slip_through(population: str, metrics: list[str]) -> None:
    draw = POPULATIONS[population][1]
    found = passing(metrics, draw, 200, Change("reversed", 3 / 200), repeats=REPEATS)
    assert sorted(found) == sorted(metrics)
    assert {name: share for name, share in found.items() if share > MOST} == {}


@pytest.mark.parametrize(
    ("population", "rows", "metrics"),
    [
        ("binary, 5 %", 600, ["precision", "auc", "average_precision", "log_loss"]),
        ("multiclass, skewed", 600, ["f1_macro", "precision_macro"]),
        ("regression, heavy tails", 300, ["rmse", "mae", "r2", "pinball_0.9"]),
    ],
)
def test_rows_that_all_change_are_judged_at_the_confidence(
    population: str, rows: int, metrics: list[str]
) -> None:
    draw = POPULATIONS[population][1]
    found = passing(metrics, draw, rows, Change("noise", 2), repeats=REPEATS)
    assert sorted(found) == sorted(metrics)
    assert {name: share for name, share in found.items() if share > MOST} == {}


def test_rare_positives_that_are_missed_do_not_slip_through() -> None:
    draw = POPULATIONS["binary, 5 %"][1]
    found = passing(["recall", "f1"], draw, 600, Change("missed", 0.1), repeats=REPEATS)
    assert len(found) == 2
    assert max(found.values()) <= MOST


def test_rows_answered_blindly_do_not_slip_through_r2() -> None:
    _, draw = POPULATIONS["regression, normal"]
    found = passing(["r2", "mae"], draw, 300, Change("blind", 3 / 300), repeats=REPEATS)
    assert len(found) == 2
    assert max(found.values()) <= MOST


def wald(differences: np.ndarray) -> float:
    """What decision 17 does without: mean less 1.645 standard errors."""
    return float(differences.mean() - 1.645 * differences.std(ddof=1) / np.sqrt(len(differences)))


def test_walds_interval_would_let_them_through() -> None:
    """The same question put to the interval that we do without: the simulation can tell."""
    rng = np.random.default_rng(0)
    samples = [np.where(rng.random(200) < 3 / 200, -1.0, 0.0) for _ in range(1000)]
    limit = -3 / 200
    assert np.mean([wald(sample) >= limit for sample in samples]) > 0.15
    ours = [mean_bounds(sample, 0.95, harm=1.0).lower >= limit for sample in samples]
    assert np.mean(ours) <= 0.06
    tango = [tango_lower_bound(0, int(-sample.sum()), 200, 0.95) >= limit for sample in samples]
    assert np.mean(tango) <= 0.06


@pytest.mark.parametrize("events", range(6))
def test_rows_of_one_size_are_bounded_as_poisson_events(events: int) -> None:
    """Exact upper bounds of a Poisson mean at 95 %, e.g. Garwood, Biometrika 28 (1936) 437-442."""
    exact = [2.996, 4.744, 6.296, 7.754, 9.154, 10.513][events]
    rows = 100_000
    differences = np.zeros(rows)
    differences[:events] = -1
    assert -mean_bounds(differences, 0.95, harm=1.0).lower * rows == pytest.approx(exact, abs=0.07)


def test_what_was_not_seen_is_the_rule_of_three_or_more() -> None:
    assert unseen_events(0.95) == pytest.approx(2.996, abs=1e-3)
    assert unseen_events(0.99) == pytest.approx(2.326**2, abs=1e-2)

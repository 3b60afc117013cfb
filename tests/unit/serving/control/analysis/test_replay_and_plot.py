"""Recorded traffic judged again, and drawn."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from serving.control.analysis import AnalysisPolicy, Increment
from serving.control.analysis.evidence import confidence_sequence
from serving.control.analysis.plot import Point, plot_rollout
from serving.control.analysis.rules import replay
from serving.types import NO_COUNTS, Counts, Outcome

STRICT = AnalysisPolicy(0.001, 0.01, 0.005, 500, 0.01, 50)
LENIENT = AnalysisPolicy(0.001, 0.5, 0.5, 500, 0.5, 50)
BEGAN = datetime(2026, 11, 21, 12, tzinfo=UTC)


def recorded(bad_from: int) -> list[tuple[datetime, Increment]]:
    """Forty seconds in two steps; from second `bad_from` on, a fifth of the candidate's requests fail."""
    seen = []
    for second in range(40):
        stable, candidate = Counts(80, 0, 0, 1), Counts(20, 4 if second >= bad_from else 0, 0, 1)
        seen.append((BEGAN + timedelta(seconds=second), Increment(stable, candidate, 0.2, step=second // 20)))
    return seen


def test_the_policy_in_force_is_found_again_in_the_record() -> None:
    found = replay(STRICT, recorded(bad_from=25))
    assert found.failed is not None
    assert BEGAN + timedelta(seconds=25) <= found.failed.verdict.at < BEGAN + timedelta(seconds=29)
    assert found.failed.step == 1
    assert found.failed.exposure == 20 * (1 + (found.failed.verdict.at - BEGAN).seconds)
    assert list(found.passed) == [0, 1]


def test_a_more_lenient_policy_lets_the_same_traffic_pass() -> None:
    found = replay(LENIENT, recorded(bad_from=25))
    assert found.failed is None
    assert found.last is not None
    assert found.last.verdict.outcome is Outcome.PASS


def test_an_empty_record_decides_nothing() -> None:
    assert replay(STRICT, []) == replay(LENIENT, [])
    assert replay(STRICT, []).last is None


def test_confidence_sequences_hold_the_rate_at_all_looks_together() -> None:
    rng = np.random.default_rng(5)
    errors = (rng.random((400, 1000)) < 0.03).cumsum(axis=1)
    low, high = confidence_sequence(np.arange(1.0, 1001), errors.astype(float), alpha=0.1)
    assert ((low > 0.03) | (high < 0.03)).any(axis=1).mean() <= 0.1


@pytest.mark.parametrize(
    ("requests", "errors", "low", "high"),
    # none failing has the closed form 1 - (B(1/2, n + 1/2) / (20 pi)) ** (1 / n), and all failing its mirror
    [(0, 0, 0.0, 1.0), (10, 0, 0.0, 0.376987), (10, 10, 0.623013, 1.0)],
)
def test_confidence_sequences_match_exact_values(requests: int, errors: int, low: float, high: float) -> None:
    found = confidence_sequence(np.array([float(requests)]), np.array([float(errors)]))
    assert np.concatenate(found) == pytest.approx([low, high], abs=1e-6)


def test_a_rollout_is_drawn_with_and_without_traffic(tmp_path: Path) -> None:
    stable = candidate = NO_COUNTS
    points = []
    for second, (_, increment) in enumerate(recorded(bad_from=25)):
        stable, candidate = stable + increment.stable, candidate + increment.candidate
        points.append(Point(second, increment.step, increment.share, stable, candidate))
    for name, some in (("some", points), ("one", points[:1]), ("none", [])):
        path = plot_rollout(some, STRICT, tmp_path / f"{name}.png", title="credit_risk v4")
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5_000

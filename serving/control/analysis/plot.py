"""A picture of a rollout: both arms' failure rates with their confidence sequences, and the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from serving.control.analysis.evidence import confidence_sequence
from serving.control.analysis.policy import AnalysisPolicy
from serving.types import Counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENOUGH_REQUESTS = 50
COLOURS = {"stable": "#228833", "candidate": "#cc6677"}


@dataclass(frozen=True, slots=True)
class Point:
    """What was known at one moment: counts since the release started, the step and the candidate's share."""

    seconds: float
    step: int
    share: float
    stable: Counts
    candidate: Counts


def plot_rollout(points: Sequence[Point], policy: AnalysisPolicy, path: Path, *, title: str = "") -> Path:
    """Write a PNG to `path`. Rates and their 95 % confidence sequences begin anew with every step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    highest = max(
        [2 * policy.max_error_rate, *(_draw_step(above, step) for step in _steps(points))], default=1.0
    )
    above.axhline(100 * policy.max_error_rate, color="black", lw=0.8, ls=":", label="limit")
    above.set(ylabel="failed, % (band: 95 % at every look)", ylim=(0, 100 * min(1.1 * highest, 1.02)))
    above.set_title(title)
    handles, labels = above.get_legend_handles_labels()
    above.legend(
        *zip(*dict(zip(labels, zip(handles, labels, strict=True), strict=True)).values(), strict=True)
    )
    seconds = [point.seconds for point in points]
    below.step(seconds, [100 * point.share for point in points], where="post", color="#4477aa")
    below.set(ylabel="share, %", xlabel="seconds since the release started", ylim=(-5, 105))
    figure.savefig(path, dpi=110)
    return path


def _steps(points: Sequence[Point]) -> list[list[Point]]:
    """Per step its points, each led by the last one before, from which its counts begin."""
    parts = [list(part) for _, part in groupby(points, key=lambda point: point.step)]
    return [[*before[-1:], *part] for before, part in zip([[], *parts], parts, strict=False)]


def _draw_step(axes: Axes, points: Sequence[Point]) -> float:
    """Draw one step; returns the highest rate that should be visible."""
    seconds = [point.seconds for point in points]
    highest = 0.0
    for arm, colour in COLOURS.items():
        counts: list[Counts] = [getattr(point, arm) for point in points]
        requests = np.array([count.requests - counts[0].requests for count in counts], dtype=float)
        errors = np.array([count.errors - counts[0].errors for count in counts], dtype=float)
        rate = np.divide(errors, requests, out=np.full(requests.shape, np.nan), where=requests > 0)
        low, high = confidence_sequence(requests, errors)
        axes.plot(seconds, 100 * rate, color=colour, marker=".", ms=3, label=arm)
        axes.fill_between(seconds, 100 * low, 100 * high, color=colour, alpha=0.15, lw=0)
        # What is worth showing is what enough requests say, not where the band is still wide.
        known = requests >= ENOUGH_REQUESTS
        highest = max(highest, rate[known].max(initial=0), high[-1] if known[-1] else 0)
    return highest

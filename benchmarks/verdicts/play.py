"""Show one stream to several judges at once and note what each of them did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.verdicts.judges import Judge, Ours
from benchmarks.verdicts.streams import Floats, Scenario, Stream

LOOK_SECONDS = 0.25
SCRAPE_SECONDS = 15.0  # enough for the others once ours is done


@dataclass(frozen=True, slots=True)
class Outcome:
    """Per release: seconds until it was taken back and the candidate requests till then; inf is never."""

    seconds: Floats
    exposure: Floats

    @property
    def taken_back(self) -> int:
        return int(np.isfinite(self.seconds).sum())

    def exposed(self, quantile: float) -> float:
        """Candidate requests before the verdict; inf where more than the rest was missed."""
        return _quantile(self.exposure, quantile)

    def waited(self, quantile: float) -> float:
        return _quantile(self.seconds, quantile)


def play(
    scenario: Scenario, judges: Sequence[Judge], releases: int, *, seconds: float, rng: np.random.Generator
) -> dict[str, Outcome]:
    """Every judge sees the same requests: in looks of 0.25 s while one of them looks that often."""
    stream = Stream(scenario, releases, rng)
    over = {judge.name: np.full(releases, np.inf) for judge in judges}
    exposure = {judge.name: np.full(releases, np.inf) for judge in judges}
    shown, at = np.zeros(releases), 0.0
    while at < seconds and not all(np.isfinite(when).all() for when in over.values()):
        quick = any(isinstance(judge, Ours) and not np.isfinite(over[judge.name]).all() for judge in judges)
        span = LOOK_SECONDS if quick or at % SCRAPE_SECONDS else SCRAPE_SECONDS
        tick = stream.draw(at, span)
        shown += tick.candidate
        for judge in judges:
            new = judge.see(tick, at, span) & np.isinf(over[judge.name])
            over[judge.name][new], exposure[judge.name][new] = at + span, shown[new]
        at += span
    return {name: Outcome(over[name], exposure[name]) for name in over}


def _quantile(values: Floats, quantile: float) -> float:
    return float(np.sort(values)[min(int(quantile * len(values)), len(values) - 1)])

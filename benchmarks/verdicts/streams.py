"""Streams of requests to two arms: what every judge is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Load, the candidate's share of it, and how often each arm fails.

    `shape`: "constant"; "bursty" (load swings between a fifth and five times the mean, and now and then both
    arms fail twenty times as often for some seconds); "drifting" (load follows a wave, and the usual rate of
    both arms climbs to twenty times itself and back within the hour). `candidate` is how often it fails while
    stable fails at the `usual` rate, and whatever comes on top for stable comes for it too; None is a healthy
    candidate: it fails as often as stable, whatever stable does.
    """

    rate: float
    share: float
    shape: str = "constant"
    usual: float = 0.001
    candidate: float | None = None

    def __str__(self) -> str:
        fails = "healthy" if self.candidate is None else f"fails {self.candidate:.0%}"
        return f"{self.rate:g}/s, share {self.share:.0%}, {self.shape}, {fails}"


@dataclass(frozen=True, slots=True)
class Tick:
    """What both arms did in one span, per release."""

    stable: Ints
    stable_errors: Ints
    candidate: Ints
    candidate_errors: Ints


class Stream:
    """`releases` independent releases in one scenario, each with its own swings of load and rate."""

    def __init__(self, scenario: Scenario, releases: int, rng: np.random.Generator) -> None:
        self.scenario = scenario
        self.releases = releases
        self._rng = rng
        self._phase = rng.random(releases)
        self._swing = rng.choice([0.2, 0.5, 1.0, 5.0], size=(releases, 64), p=[0.25, 0.25, 0.35, 0.15])

    def draw(self, at: float, seconds: float) -> Tick:
        """The span from `at` to `at + seconds`, in seconds since the release began."""
        load, usual = self._weather(at)
        mean = self.scenario.rate * load * seconds
        n_c = self._rng.poisson(mean * self.scenario.share)
        n_s = self._rng.poisson(mean * (1 - self.scenario.share))
        bad = self.scenario.candidate
        fails = usual if bad is None else np.minimum(usual + bad - self.scenario.usual, 1)
        return Tick(n_s, self._rng.binomial(n_s, usual), n_c, self._rng.binomial(n_c, fails))

    def _weather(self, at: float) -> tuple[Floats, Floats]:
        """Load as a multiple of the mean, and the usual failure rate, per release."""
        usual = np.full(self.releases, self.scenario.usual)
        if self.scenario.shape == "bursty":
            load = self._swing[:, int(at / 10) % 64]
            stormy = (at / 300 + self._phase) % 1 < 5 / 300
            return load, np.where(stormy, 20 * usual, usual)
        if self.scenario.shape == "drifting":
            wave = np.sin(2 * np.pi * (at / 3600 + self._phase))
            climb = np.abs(((at / 3600 + self._phase) % 1) * 2 - 1)
            return 1 + 0.5 * wave, usual * 20**climb
        return np.ones(self.releases), usual

"""Streams of requests to two arms: what every judge is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CLIMB = 20.0
PAUSE_SECONDS, PAUSE_EVERY_SECONDS = 0.5, 20.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Load, the candidate's share of it, and how often each arm fails.

    `shape`: "constant"; "bursty" (load swings between a fifth and five times the mean, and now and then both
    arms fail twenty times as often for some seconds); "drifting" (load follows a wave, and the usual rate of
    both arms climbs to twenty times itself and back within the hour); "overloaded" (each arm's pods stand
    still about once in twenty seconds, for half a second on average, and what they then answer is slow: 2.5 %
    of all, where 1 % is allowed); "garbage" (a twentieth of all requests is answered with 4xx by either arm,
    now and then nine of ten for some seconds; half of these the models themselves refuse). `candidate` is how
    often it fails while stable fails at the `usual` rate,
    and whatever comes on top for stable comes for it too; None is a healthy candidate: it fails as often as
    stable, whatever stable does.
    """

    rate: float
    share: float
    shape: str = "constant"
    usual: float = 0.001
    candidate: float | None = None

    @property
    def typical(self) -> float:
        """The usual failure rate in the middle of its drift."""
        return self.usual * CLIMB**0.5 if self.shape == "drifting" else self.usual

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
    stable_slow: Ints
    candidate_slow: Ints
    stable_refused: Ints
    candidate_refused: Ints


class Stream:
    """`releases` independent releases in one scenario, each with its own swings of load and rate."""

    def __init__(self, scenario: Scenario, releases: int, rng: np.random.Generator) -> None:
        self.scenario = scenario
        self.releases = releases
        self._rng = rng
        self._phase = rng.random(releases)
        self._stands = np.zeros((2, releases), dtype=bool)
        self._swing = rng.choice([0.2, 0.5, 1.0, 5.0], size=(releases, 64), p=[0.25, 0.25, 0.35, 0.15])

    def draw(self, at: float, seconds: float) -> Tick:
        """The span from `at` to `at + seconds`, in seconds since the release began."""
        load, usual = self._weather(at)
        mean = self.scenario.rate * load * seconds
        n_c = self._rng.poisson(mean * self.scenario.share)
        n_s = self._rng.poisson(mean * (1 - self.scenario.share))
        bad = self.scenario.candidate
        fails = usual if bad is None else np.minimum(usual + bad - self.scenario.usual, 1)
        errors = self._rng.binomial(n_s, usual), self._rng.binomial(n_c, fails)
        stable_stands, candidate_stands = self._pauses(seconds)
        refused = self._refused(at, n_s - errors[0]), self._refused(at, n_c - errors[1])
        slow = n_s * stable_stands, n_c * candidate_stands
        return Tick(n_s, errors[0], n_c, errors[1], *slow, *refused)

    def _refused(self, at: float, well: Ints) -> Ints:
        """Of those that did not fail, how many get a 4xx: the same chance for both arms at any time."""
        if self.scenario.shape != "garbage":
            return np.zeros_like(well)
        in_burst = (at / 120 + self._phase) % 1 < 5 / 120
        return self._rng.binomial(well, np.where(in_burst, 0.9, 0.05))

    def _pauses(self, seconds: float) -> NDArray[np.bool_]:
        """Which arms stand still in this span."""
        if self.scenario.shape == "overloaded":
            chance = self._rng.random(self._stands.shape)
            self._stands = np.where(
                self._stands, chance < 1 - seconds / PAUSE_SECONDS, chance < seconds / PAUSE_EVERY_SECONDS
            )
        return self._stands

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
            return 1 + 0.5 * wave, usual * CLIMB**climb
        return np.ones(self.releases), usual

"""What happened in one tick, and everything the judge remembers of the ticks before.

Both are plain values. A `JudgeState` goes to JSON and back without loss, so a guard that was killed
goes on from the journal.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.types import NO_COUNTS, Counts

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Increment:
    """What both arms did since the tick before (never cumulative counts).

    `share` is the candidate's part of the route's weight (0-1) in force during the tick; across a change
    of weight, the smaller of the two. `retries_on_stable` says whether the proxy repeats the candidate's
    failures on stable: those repeats are in stable's counts and must not pass for traffic of its own.
    `compared` and `disagreed` count mirrored or replayed requests answered by both arms. `step` names the
    rollout step; when it changes, the count towards `min_requests` starts again.
    """

    stable: Counts
    candidate: Counts
    share: float
    step: int = 0
    retries_on_stable: bool = False
    compared: int = 0
    disagreed: int = 0

    @property
    def problem(self) -> str:
        """Why these numbers cannot be true, or "" if they can. Nothing untrue is ever judged."""
        for name, part, whole in (
            ("stable errors", self.stable.errors, self.stable.requests),
            ("stable slow", self.stable.slow, self.stable.requests),
            ("candidate errors", self.candidate.errors, self.candidate.requests),
            ("candidate slow", self.candidate.slow, self.candidate.requests),
            ("disagreed", self.disagreed, self.compared),
        ):
            if not (math.isfinite(part) and math.isfinite(whole) and 0 <= part <= whole):
                return f"{name} is {part} of {whole}"
        for name, value, highest in (
            ("share", self.share, 1.0),
            ("stable window", self.stable.window_seconds, math.inf),
            ("candidate window", self.candidate.window_seconds, math.inf),
        ):
            if not (math.isfinite(value) and 0 <= value <= highest):
                return f"{name} is {value}"
        return ""


_ARMS = ("stable", "candidate", "step_candidate")
_PLAIN = (
    "seconds",
    "ticks",
    "step",
    "share",
    "compared",
    "disagreed",
    "owed",
    "repeats",
    "repeats_failed",
    "problem",
)


@dataclass(frozen=True, slots=True, eq=False)
class JudgeState:
    """The judge's memory of one release. Get the first from `begin(policy)`.

    `log_wealth` (tests x levels) and `log_reserve` are the e-processes of `serving.analysis.evidence`, in
    nats; `log_peak` (tests) is the highest each test ever stood. `owed` counts the candidate's failures
    whose repeats on stable were not seen yet; `repeats` those seen while the candidate had all traffic, and
    `repeats_failed` the failures among them. `problem` is why the last tick could not be judged.
    """

    log_wealth: Array
    log_reserve: float
    log_peak: Array
    seconds: float = 0.0
    ticks: int = 0
    stable: Counts = NO_COUNTS
    candidate: Counts = NO_COUNTS
    step: int = 0
    share: float = 0.0
    step_candidate: Counts = NO_COUNTS
    compared: int = 0
    disagreed: int = 0
    owed: int = 0
    repeats: int = 0
    repeats_failed: int = 0
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an exhausted bet's -inf becomes null."""
        return {
            "log_wealth": [[None if math.isinf(w) else w for w in row] for row in self.log_wealth.tolist()],
            "log_reserve": self.log_reserve,
            "log_peak": self.log_peak.tolist(),
            **{name: getattr(self, name) for name in _PLAIN},
            **{name: list(astuple(getattr(self, name))) for name in _ARMS},
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> JudgeState:
        """The inverse of `to_json`. Raises KeyError or TypeError for what is not a saved state."""
        wealth = [[-math.inf if w is None else float(w) for w in row] for row in saved["log_wealth"]]
        rest: dict[str, Any] = {name: Counts(*saved[name]) for name in _ARMS}
        rest |= {name: saved[name] for name in _PLAIN}
        peak = np.array(saved["log_peak"], dtype=float)
        return cls(np.array(wealth), float(saved["log_reserve"]), peak, **rest)

    def with_tick(self, tick: Increment, *, owed: int, repeats: tuple[int, ...]) -> JudgeState:
        """The same evidence with this tick's counts added. `repeats`: how many, and how many failed."""
        return replace(
            self,
            seconds=self.seconds + tick.candidate.window_seconds,
            ticks=self.ticks + 1,
            stable=self.stable + tick.stable,
            candidate=self.candidate + tick.candidate,
            step=tick.step,
            share=tick.share,
            step_candidate=tick.candidate + (self.step_candidate if tick.step == self.step else NO_COUNTS),
            compared=self.compared + tick.compared,
            disagreed=self.disagreed + tick.disagreed,
            owed=owed,
            repeats=self.repeats + repeats[0],
            repeats_failed=self.repeats_failed + repeats[1],
            problem="",
        )

"""What happened in one tick, and everything the judge remembers of the ticks before.

Both are plain values. A `JudgeState` goes to JSON and back without loss, so a controller that was killed
goes on from the journal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.control.analysis.evidence import LEVELS, TESTS, Array
from serving.types import Counts

MOST_REQUESTS = 10**15  # more in one tick is no count of requests

# The columns of an arm's counts.
ARM = ("requests", "errors", "slow", "refused", "malformed", "uninformative")
REQUESTS, ERRORS, SLOW, REFUSED, MALFORMED, UNINFORMATIVE = range(len(ARM))

# Names and shapes of what one row of `Memory` holds.
LAYOUT: dict[str, tuple[int, ...]] = {
    "wealth": (len(TESTS), LEVELS),  # the money on each bet
    "peak": (len(TESTS),),  # the highest e-value each test ever reached
    "seconds": (),
    "ticks": (),
    "stable": (len(ARM),),
    "candidate": (len(ARM),),
    "step": (),
    "share": (),
    "step_candidate": (len(ARM),),  # the candidate's counts since the step began
    "compared": (2,),  # requests answered by both arms, and disagreements
    "owed": (),  # failures of the candidate whose repeats on stable were not seen yet
    "repeats": (2,),  # seen while the candidate had all traffic, and failures among them
    "waiting_stable": (len(ARM),),  # counts not yet bet on: see `serving.control.analysis.accumulation`
    "waiting_candidate": (len(ARM),),
    "waiting_seconds": (),
}


def _places() -> dict[str, slice]:
    places, at = {}, 0
    for name, shape in LAYOUT.items():
        places[name] = slice(at, at := at + math.prod(shape))
    return places


PLACES = _places()
SIZE = sum(math.prod(shape) for shape in LAYOUT.values())


class JudgeMemory:
    """The states of many services, a row of `rows` each; `memory["stable"]` is a view of (services, 6)."""

    __slots__ = ("rows",)

    def __init__(self, rows: Array) -> None:
        self.rows = rows

    def __getitem__(self, name: str) -> Array:
        return self.rows[:, PLACES[name]].reshape(len(self.rows), *LAYOUT[name])

    def __setitem__(self, name: str, values: Array | float) -> None:
        self[name][...] = values


@dataclass(frozen=True, slots=True)
class Increment:
    """What both arms did since the tick before (never cumulative counts).

    `share` is the candidate's part of the route's weight (0-1) in force during the tick; across a change
    of weight, the smaller of the two. `retries_on_stable` says whether the proxy repeats the candidate's
    failures and refusals on stable: those are in stable's counts and must not pass for traffic of its own.
    `settled` says whether that share has been in force for as long as a request may take: before that, what
    finished began under another one, and says nothing about lost traffic.
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
    settled: bool = True

    @property
    def problem(self) -> str:
        """Why these numbers cannot be true, or "" if they can. Nothing untrue is ever judged."""
        for name, part, whole in (
            ("stable errors", self.stable.errors, self.stable.requests),
            ("stable slow", self.stable.slow, self.stable.requests),
            ("candidate errors", self.candidate.errors, self.candidate.requests),
            ("candidate slow", self.candidate.slow, self.candidate.requests),
            ("stable 4xx", self.stable.rejected, self.stable.requests - self.stable.errors),
            ("stable uninformative", self.stable.uninformative, self.stable.malformed),
            ("candidate uninformative", self.candidate.uninformative, self.candidate.malformed),
            ("candidate 4xx", self.candidate.rejected, self.candidate.requests - self.candidate.errors),
            ("disagreed", self.disagreed, self.compared),
        ):
            if not 0 <= part <= whole <= MOST_REQUESTS:
                return f"{name} is {part} of {whole}"
        for name, value, highest in (
            ("share", self.share, 1.0),
            ("stable window", self.stable.window_seconds, 1e9),
            ("candidate window", self.candidate.window_seconds, 1e9),
        ):
            if not 0 <= value <= highest:
                return f"{name} is {value}"
        return ""


@dataclass(frozen=True, slots=True, eq=False)
class JudgeState:
    """The judge's memory of one release; get the first from `begin()`. `values` is one row of `Memory`.

    `problem` is why the last tick could not be judged, or "".
    """

    values: Array
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, by name."""
        return {**{name: self._part(name).tolist() for name in LAYOUT}, "problem": self.problem}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> JudgeState:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError for what is no saved state."""
        memory = JudgeMemory(np.zeros((1, SIZE)))
        for name, shape in LAYOUT.items():
            memory[name] = np.asarray(saved[name], dtype=float).reshape(shape)
        return cls(memory.rows[0], str(saved["problem"]))

    @property
    def stable(self) -> Counts:
        return self._counts("stable")

    @property
    def candidate(self) -> Counts:
        return self._counts("candidate")

    @property
    def step_candidate(self) -> Counts:
        """What the candidate did since the step began."""
        return self._counts("step_candidate")

    @property
    def share(self) -> float:
        return self._number("share")

    @property
    def seconds(self) -> float:
        return self._number("seconds")

    @property
    def compared(self) -> tuple[int, int]:
        """Requests answered by both arms, and how many of them differently."""
        return self._pair("compared")

    @property
    def repeats(self) -> tuple[int, int]:
        """Repeats on stable while the candidate had all traffic, and the failures among them."""
        return self._pair("repeats")

    @property
    def owed(self) -> int:
        """Failures of the candidate whose repeats on stable were not seen yet."""
        return int(self._number("owed"))

    def _part(self, name: str) -> Array:
        return self.values[PLACES[name]].reshape(LAYOUT[name])

    def _number(self, name: str) -> float:
        return float(self.values[PLACES[name].start])

    def _counts(self, name: str) -> Counts:
        requests, errors, slow, *rejected = map(int, self.values[PLACES[name]].tolist())
        return Counts(requests, errors, slow, self.seconds, *rejected)

    def _pair(self, name: str) -> tuple[int, int]:
        whole, part = self.values[PLACES[name]]
        return int(whole), int(part)

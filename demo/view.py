"""What the demo knows while it runs, in the words it is shown in. No terminal here: `screen` draws it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from demo.acts import Act
from demo.traffic_log import Tally

# The tasks of a release as the story tells them: the last part of the task id, and a word for it.
STORY = {
    "take_turn": "turn",
    "export": "export",
    "check_data": "data",
    "quantize": "quantize",
    "compile": "compile",
    "gate": "gates",
    "choose": "choose",
    "publish": "publish",
    "roll_out": "roll out",
    "promote": "promote",
}


class Step(StrEnum):
    """How far one step of a release is."""

    WAITING = "waiting"
    ACTIVE = "active"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


_FAILED = {"failed"}
_SKIPPED = {"skipped", "upstream_failed", "removed"}
_ACTIVE = {"running", "deferred", "queued", "scheduled", "up_for_retry", "restarting", "up_for_reschedule"}


def name_of(task: Mapping[str, Any]) -> str:
    """A task instance's name, without its group."""
    return str(task["task_id"]).rpartition(".")[2]


def steps_of(tasks: Iterable[Mapping[str, Any]]) -> dict[str, Step]:
    """Task name (without its group) -> how far it is; a mapped task is as far as its instances together."""
    states: dict[str, list[str | None]] = {}
    for task in tasks:
        states.setdefault(name_of(task), []).append(task["state"])
    return {name: _together(found) for name, found in states.items()}


def _together(states: list[str | None]) -> Step:
    found = set(states)
    if found & _FAILED:
        return Step.FAILED
    if found <= {"success"}:
        return Step.DONE
    if found & _ACTIVE or "success" in found:
        return Step.ACTIVE
    return Step.SKIPPED if found & _SKIPPED else Step.WAITING


@dataclass(slots=True)
class ActView:
    """One release on the screen. `ending` is None until it is over; times are seconds since the start."""

    act: Act
    began: float | None = None
    ended: float | None = None
    ending: str | None = None
    steps: dict[str, Step] = field(default_factory=dict)

    def seconds(self, now: float) -> float:
        """How long it has taken so far, or took."""
        return 0.0 if self.began is None else (now if self.ended is None else self.ended) - self.began


@dataclass(slots=True)
class View:
    """Everything on the screen. `now` is seconds since the demo began; `doing` what is being waited for.

    `shares`: version -> percent of the traffic, stable first; empty before the first release.
    """

    title: str
    acts: list[ActView]
    doing: str = ""
    now: float = 0.0
    shares: Mapping[int, float] = field(default_factory=dict)
    tally: Tally | None = None

    @property
    def current(self) -> ActView | None:
        """The release on its way, if any."""
        return next((act for act in self.acts if act.began is not None and act.ended is None), None)


def in_words(shares: Mapping[int, float]) -> str:
    """`v1 95 %, v2 5 %`; empty before the first release."""
    return ", ".join(f"v{version} {weight:g} %" for version, weight in shares.items())

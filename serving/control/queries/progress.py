"""How far a rollout came: every step of its plan with what became of it, and how and where it ended."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from serving.control.queries.snapshots import RolloutSnapshot
from serving.types import Finding, Outcome


class StepMark(StrEnum):
    """What became of a step of the plan. `words` are read out."""

    DONE = "done"
    HERE = "here"
    FAILED = "failed"
    TO_COME = "to-come"
    NOT_REACHED = "not-reached"

    @property
    def words(self) -> str:
        return {"done": "passed", "here": "now", "failed": "rolled back here"}.get(
            self.value, self.value.replace("-", " ")
        )


@dataclass(frozen=True, slots=True)
class PlanStep:
    """`weight` is the candidate's percent; None: the watch after promotion."""

    weight: float | None
    mark: StepMark


@dataclass(frozen=True, slots=True)
class RolloutEnd:
    """How a rollout was rolled back. `seconds` since the step began, `meaning` what the measure says."""

    weight: float
    was_promoted: bool
    measure: str
    meaning: str
    rules: tuple[str, ...]
    at: datetime
    seconds: float

    @property
    def headline(self) -> str:
        """`Rolled back at 5 %: candidate failed 5 of 9 requests`, `Aborted at 25 % by bo: not now`."""
        where = f"at {self.weight:g} %" if self.weight else "before it had traffic"
        where = "after it was promoted" if self.was_promoted else where
        if by := _BY.match(self.measure):
            return f"{by[1].capitalize()} {where} {self.measure[by.end(1) + 1 :]}"
        return f"Rolled back {where}: {self.measure}"


# How it is written down that a person did it (`serving.web.interventions`).
_BY = re.compile(r"(rolled back|aborted) by ")


def plan_of(rollout: RolloutSnapshot) -> tuple[PlanStep, ...]:
    """The steps of the plan and the watch after them, in order."""
    place = len(rollout.steps) if rollout.phase == "watching" or _was_promoted(rollout) else rollout.step
    weights = (*rollout.steps, None)
    return tuple(
        PlanStep(weight, _mark(rollout.phase, number, place)) for number, weight in enumerate(weights)
    )


def end_of(rollout: RolloutSnapshot, findings: tuple[Finding, ...]) -> RolloutEnd | None:
    """How it was rolled back, by the findings that ended it or by whoever did it; None: it was not."""
    if rollout.phase != "rolled_back":
        return None
    at, weight, began = rollout.changed_at, 0.0, rollout.started_at
    for when, kind, _, share in rollout.events:
        if kind in ("shift", "promoted"):
            weight, began = share, when
        elif kind == "rolled back":
            at = when
    worst = [finding for finding in findings if finding.outcome >= Outcome.ERROR]
    measure, _, meaning = worst[0].reason.partition(": ") if worst else (rollout.why, "", "")
    seconds = (at - began).total_seconds()
    rules = tuple(finding.rule for finding in worst)
    return RolloutEnd(weight, _was_promoted(rollout), measure, meaning, rules, at, seconds)


def _mark(phase: str, number: int, place: int) -> StepMark:
    """`place` is how far it came: -1 before the first step, then by the number of the step."""
    if phase == "done" or number < place:
        return StepMark.DONE
    if number > place:
        return StepMark.NOT_REACHED if phase == "rolled_back" else StepMark.TO_COME
    return StepMark.FAILED if phase == "rolled_back" else StepMark.HERE


def _was_promoted(rollout: RolloutSnapshot) -> bool:
    return any(kind == "promoted" for _, kind, _, _ in rollout.events)

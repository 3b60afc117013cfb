"""What a rollout is going to do, where it stands, and the five things it can do next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal

from serving.control.analysis.policy import AnalysisPolicy
from serving.types import ALL_STABLE, Finding, TrafficSplit


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """The split to hold, and for how long at least."""

    split: TrafficSplit
    hold_seconds: float


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """Canary and blue-green differ only in their steps.

    Blue-green is one step at candidate 0 (the preview, held) and one at 100 with no hold.
    """

    strategy: Literal["canary", "blue_green"]
    steps: tuple[RolloutStep, ...]
    max_step_seconds: float
    watch_seconds: float
    policy: AnalysisPolicy


class Phase(StrEnum):
    """PROGRESSING -> WATCHING -> DONE; ROLLED_BACK from either of the first two."""

    PROGRESSING = "progressing"
    WATCHING = "watching"
    DONE = "done"
    ROLLED_BACK = "rolled_back"

    @property
    def is_final(self) -> bool:
        return self in (Phase.DONE, Phase.ROLLED_BACK)


@dataclass(frozen=True, slots=True)
class RolloutState:
    """One release on its way. `step` is the index of the step whose split is applied (-1: none yet).

    `generation` grows with every save; the journal refuses a save from an older one. `deployment_id` is the
    candidate's, by which a route that is no longer this release's is recognised; `route_revision` the
    route's revision when the step was decided, by which a step that was not applied is told from one that
    somebody took back.

    People may interfere (`serving.control.rollout.control`): `paused` says who paused it and why,
    `hold_skipped` that this step's hold need not be sat out, and `patience_from` how many seconds of the step
    its time limit leaves out, because it was paused. All three end with the step.

    `unproven`: the gates' answers are still to be had through the gateway
    (`serving.control.answers_through_gateway`); until then nobody is sent there.
    """

    release_id: str
    service: str
    version: int
    previous_version: int | None
    plan: RolloutPlan
    step: int
    step_started_at: datetime
    phase: Phase
    generation: int
    deployment_id: str
    started_at: datetime
    route_revision: int
    reason: str = ""
    findings: tuple[Finding, ...] = ()
    paused: str = ""
    unproven: bool = False
    hold_skipped: bool = False
    patience_from: float = 0.0

    @property
    def split(self) -> TrafficSplit:
        """What the route must say while the release stands here."""
        if self.phase is Phase.ROLLED_BACK or self.step < 0:
            return ALL_STABLE
        return self.plan.steps[self.step].split

    @property
    def is_first(self) -> bool:
        """Nothing stands behind it: there is no stable version to compare with or to return to."""
        return self.previous_version is None

    @property
    def place(self) -> int:
        """Numbers what is judged apart: 0 before the first step, then each step, then the watch."""
        return self.step + 1 + (self.phase is Phase.WATCHING)

    @property
    def pace(self) -> Phase:
        """How closely its observations follow each other: while it is paused, as in a watch."""
        return Phase.WATCHING if self.paused else self.phase

    def with_phase(
        self, phase: Phase, *, at: datetime, reason: str, findings: tuple[Finding, ...] = ()
    ) -> RolloutState:
        """The same release in another phase, and why."""
        changed = replace(self, phase=phase, step_started_at=at, reason=reason, findings=findings)
        return changed.left_alone()

    def left_alone(self) -> RolloutState:
        """The same release without what people asked for in the step that it leaves."""
        return replace(self, paused="", hold_skipped=False, patience_from=0.0)


@dataclass(frozen=True, slots=True)
class Shift:
    """Apply the step with this index."""

    step: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Change nothing; `reason` says what is being waited for."""

    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    """The candidate keeps all traffic; the previous version stays warm for the watch time."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The watch is over: the candidate becomes stable, and the previous version may be retired."""


@dataclass(frozen=True, slots=True)
class Rollback:
    """All traffic to stable, now."""

    findings: tuple[Finding, ...]


Action = Shift | Hold | Promote | Finish | Rollback

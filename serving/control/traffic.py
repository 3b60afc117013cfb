"""What moves traffic, as everybody asks for it: Airflow's tasks, the page, the command line, alerts.

The controller carries it out (`serving.control.controller.acts`); other processes ask it over HTTP
(`serving.control.client`). Each may be repeated: ids are given by who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from model_store.errors import Retryable

if TYPE_CHECKING:
    from serving.control.rollbacks import RollbackRequest
    from serving.control.rollout.control import ControlRequest
    from serving.control.rollout.plan import RolloutState
    from serving.types import Route


class NotLeading(Retryable):
    """Another controller has the lease, or nobody knows who has it: here nothing is written.

    `leader`: where the one that has it is asked, as it said itself; "" if nobody knows.
    """

    leader: str = ""

    @classmethod
    def of(cls, problem: str, *, remedy: str, leader: str) -> NotLeading:
        made = cls(problem, remedy=remedy, delay_seconds=1)
        made.leader = leader
        return made


class RollbackPhase(StrEnum):
    """RETURNED and FAILED are final."""

    STARTING = "starting"
    RETURNED = "returned"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return self is not RollbackPhase.STARTING


@dataclass(frozen=True, slots=True)
class RollbackProgress:
    """How far the rollback of a model has come; `words` for people."""

    id: str
    model: str
    leaves: int
    returns: int
    phase: RollbackPhase
    words: str


class RolloutPhase(StrEnum):
    """STARTING: its pods are. UNKNOWN: nobody asked for it since the controller was started, or it was ended.

    From PROGRESSING to ROLLED_BACK as `serving.control.rollout.plan.Phase`.
    """

    UNKNOWN = "unknown"
    STARTING = "starting"
    FAILED = "failed"
    SERVES_ALREADY = "serves_already"
    SUPERSEDED = "superseded"
    PROGRESSING = "progressing"
    WATCHING = "watching"
    DONE = "done"
    ROLLED_BACK = "rolled_back"

    @property
    def goes_on(self) -> bool:
        """Whether there is something to wait for before it is promoted."""
        return self in (RolloutPhase.STARTING, RolloutPhase.PROGRESSING)


@dataclass(frozen=True, slots=True)
class RolloutProgress:
    """How far the rollout of a release has come; `words` for people."""

    release_id: str
    phase: RolloutPhase
    words: str


class TrafficControl(Protocol):
    """Raises `Retryable` while the controller does not answer."""

    def begin(self, release_id: str, bundle_id: str) -> RolloutProgress:
        """Start the bundle's pods, put them into the route at weight 0 once they are ready, and roll it out.

        Returns at once. Asking again is asking how far it has come; it raises, once, what the last try failed
        with, and the next one tries again.
        """
        ...

    def progress(self, release_ids: Sequence[str]) -> dict[str, RolloutProgress]:
        """How far each has come."""
        ...

    def end(self, release_id: str, *, reason: str) -> RolloutProgress:
        """Its run is over. What has not begun does not begin, and what progresses is rolled back; with a
        `reason` also what is watched. Pods that no route names are retired."""
        ...

    def read(self, release_id: str) -> RolloutState:
        """Where the rollout stands. Raises `UnknownRelease`."""
        ...

    def roll_back(self, release_id: str, *, reason: str) -> RolloutState:
        """All traffic to stable now. A release that is over stays as it is."""
        ...

    def finish_watch(self, release_id: str, *, reason: str = ...) -> RolloutState:
        """Make a promoted candidate stable before its watch time is over."""
        ...

    def withdraw(self, release_id: str) -> RolloutState:
        """Take a rolled-back candidate out of the route, so that its pods can be retired."""
        ...

    def pause(self, release_id: str, request: ControlRequest) -> RolloutState:
        """Keep the split as it is until somebody resumes. Raises `ActSuperseded` if it is paused or over."""
        ...

    def resume(self, release_id: str, request: ControlRequest) -> RolloutState:
        """Go on with the step. Raises `ActSuperseded` if over or not paused."""
        ...

    def skip_hold(self, release_id: str, request: ControlRequest) -> RolloutState:
        """Let the step end as soon as its verdict is a pass. Raises `ActSuperseded` if it may not."""
        ...

    def roll_model_back(self, request: RollbackRequest) -> RollbackProgress:
        """To the version before, or a named one: at once where it stands by, else as soon as its pods answer.

        The same `run_id` is the same rollback. Raises `AlreadyRolledBack` when no version was named and
        somebody went back since.
        """
        ...

    def rollback(self, rollback_id: str) -> RollbackProgress:
        """How far it has come. Raises `Permanent` when no rollback has this id."""
        ...

    def adopt(self, model: str, *, by: str, reason: str) -> Route:
        """Take what the gateway was told of the model for what was decided, where the ledger knows otherwise:
        it was restored from a backup. No weight changes. Raises `UnknownService`. May be repeated."""
        ...

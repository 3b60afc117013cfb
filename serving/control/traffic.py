"""What moves traffic, as everybody asks for it: Airflow's tasks, the page, the command line, alerts.

The controller carries it out (`serving.control.controller.acts`); other processes ask it over HTTP
(`serving.control.client`). Each may be repeated: ids are given by who asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from serving.control.rollbacks import RollbackRequest
    from serving.control.rollout.plan import RolloutState


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


class TrafficControl(Protocol):
    """Raises `Retryable` while the controller does not answer."""

    def start(self, release_id: str, deployment_id: str) -> RolloutState:
        """Put the release's ready deployment into the route at weight 0, and begin."""
        ...

    def read(self, release_id: str) -> RolloutState:
        """Where the rollout stands. Raises `UnknownRelease`."""
        ...

    def roll_back(self, release_id: str, *, reason: str) -> RolloutState:
        """All traffic to stable now. A release that is over stays as it is."""
        ...

    def proven(self, release_id: str, *, reason: str) -> RolloutState:
        """Its answers through the gateway are the gates': it may be given requests."""
        ...

    def finish_watch(self, release_id: str, *, reason: str = ...) -> RolloutState:
        """Make a promoted candidate stable before its watch time is over."""
        ...

    def withdraw(self, release_id: str) -> RolloutState:
        """Take a rolled-back candidate out of the route, so that its pods can be retired."""
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

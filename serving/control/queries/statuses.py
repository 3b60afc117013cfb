"""How a release may stand, and how a model's users may fare: in one word each, the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ReleaseStatus(StrEnum):
    """Where a release stands. The first seven are under way; UNKNOWN is neither that nor an ending."""

    QUEUED = "queued"
    PREPARING = "preparing"
    FROZEN = "frozen"
    WAITING = "waiting_for_approval"
    ROLLING_OUT = "rolling_out"
    PAUSED = "paused"
    WATCHING = "watching"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    BLOCKED = "blocked"
    SUPERSEDED = "superseded"
    DRY_RUN = "dry_run"
    # What its files do not say and Airflow was not asked yet. Nobody is shown this: `books.rows` asks.
    UNKNOWN = "unknown"

    @property
    def is_under_way(self) -> bool:
        return self in UNDER_WAY

    @property
    def is_over(self) -> bool:
        """Whether it is known to have ended: to know nothing of a release is no ending."""
        return not self.is_under_way and self is not ReleaseStatus.UNKNOWN

    @property
    def words(self) -> str:
        """As people read it."""
        return self.value.replace("_", " ").capitalize()


UNDER_WAY = frozenset(
    {
        ReleaseStatus.QUEUED,
        ReleaseStatus.PREPARING,
        ReleaseStatus.FROZEN,
        ReleaseStatus.WAITING,
        ReleaseStatus.ROLLING_OUT,
        ReleaseStatus.PAUSED,
        ReleaseStatus.WATCHING,
    }
)


class RollbackStatus(StrEnum):
    """How far a rollback has come."""

    REQUESTED = "requested"
    UNDER_WAY = "under_way"
    RETURNED = "traffic_returned"
    FAILED = "failed"

    @property
    def words(self) -> str:
        return self.value.replace("_", " ").capitalize()


class ModelHealth(StrEnum):
    """What a model's users get now."""

    HEALTHY = "healthy"
    FAILING = "failing"
    DOWN = "down"
    IDLE = "no_requests"
    ABSENT = "not_serving"
    UNKNOWN = "unknown"

    @property
    def words(self) -> str:
        return self.value.replace("_", " ").capitalize()


@dataclass(frozen=True, slots=True)
class HealthNow:
    """`requests` and what became of them are those of the last `seconds`; `pods` are of the arms that serve.

    `refused` were well-formed, and the model refused them; `malformed` got any other 4xx.
    """

    health: ModelHealth
    words: str
    requests: int = 0
    errors: int = 0
    seconds: float = 0.0
    pods: int = 0
    pods_ready: int = 0
    refused: int = 0
    malformed: int = 0

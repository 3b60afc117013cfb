"""What a release is carried out with: a port for everything that may be done in more than one way.

`serving.composition` says what stands behind each.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from model_store.registry import Registry
from model_store.storage.store import Store
from serving.control.notes import Notes
from serving.control.release_attempts import ReleaseAttempts
from serving.control.releases import Releases
from serving.control.rollout.journal import Journal
from serving.control.rollout.lock import ReleaseLock
from serving.control.traffic import TrafficControl
from serving.gateway.router.base import RouteHistory, TrafficRouter
from serving.home import Home
from serving.ledger.base import Rows
from serving.platforms.base import Platform


@dataclass(frozen=True, slots=True)
class Services:
    """One installation, as release tasks use it."""

    home: Home
    releases: Releases
    store: Store
    registry: Registry
    router: TrafficRouter
    history: RouteHistory
    platform: Platform
    journal: Journal
    lock: ReleaseLock
    rollouts: TrafficControl
    rows: Rows

    @property
    def attempts(self) -> ReleaseAttempts:
        """Which versions were tried."""
        return ReleaseAttempts(self.rows)

    @property
    def notes(self) -> Notes:
        """What is so of models until somebody ends it."""
        return Notes(self.rows)


def now() -> datetime:
    """The wall's time. Tasks pass it on; nothing below them reads a clock."""
    return datetime.now(UTC)

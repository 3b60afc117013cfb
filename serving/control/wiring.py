"""Which real things stand behind each port. The only place that chooses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from model_store.extensions import GATEWAYS
from model_store.registry import Registry
from model_store.storage.store import Store
from serving.control.releases import Releases
from serving.control.rollout.advance import Rollouts
from serving.control.rollout.journal import Journal
from serving.control.rollout.lock import ReleaseLock
from serving.control.tries import Tries
from serving.gateway.router.base import TrafficRouter
from serving.home import Home
from serving.platforms.base import Platform


@dataclass(frozen=True, slots=True)
class Services:
    """One installation, as release tasks use it."""

    home: Home
    releases: Releases
    store: Store
    registry: Registry
    router: TrafficRouter
    platform: Platform
    journal: Journal
    lock: ReleaseLock
    rollouts: Rollouts

    @property
    def tries(self) -> Tries:
        """Which versions were tried."""
        return Tries(self.releases.root)


def now() -> datetime:
    """The wall's time. Tasks pass it on; nothing below them reads a clock."""
    return datetime.now(UTC)


def wire(home: Home | None = None) -> Services:
    """The services of the installation that `SLIPWAY_HOME` names. Opens nothing yet."""
    from serving.platforms.by_spec import platform_of

    home = home or Home.locate()
    journal, router = Journal(home.journal), GATEWAYS.load("envoy")(home)
    return Services(
        home=home,
        releases=Releases(home.releases),
        store=Store(home.store),
        registry=Registry(home.mlflow_url),
        router=router,
        platform=platform_of(home),
        journal=journal,
        lock=ReleaseLock(home.journal),
        rollouts=Rollouts(journal, router, now=now),
    )

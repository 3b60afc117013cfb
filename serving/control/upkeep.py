"""Which bundles an installation still needs, and forgetting the others.

Needed is what serves or is warm, what a release that has not ended is about (also while it waits for people,
a freeze or its turn), and what somebody may want to go back to: of each model the versions promoted last.
Whatever cannot be read stops everything: nothing is removed on a guess.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from model_store.bundle.garbage import Collected, Garbage, collect_garbage, find_garbage
from model_store.errors import Permanent
from model_store.storage.store import Store
from serving.control import unended
from serving.control.rollout.journal import Journal
from serving.control.rollout.plan import Phase
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.home import Home
from serving.platforms.pods import records
from serving.types import DeploymentId


@dataclass(frozen=True, slots=True)
class Retention:
    """`days`: nothing younger is removed. `versions`: of each model, the last promoted ones stay for ever."""

    days: float = 30
    versions: int = 5

    @classmethod
    def of(cls, home: Home) -> Retention:
        """From `retention` in `<home>/config.json`. Raises `Permanent` when it is not readable as such."""
        try:
            said = json.loads(home.config.read_bytes()).get("retention", {}) if home.config.exists() else {}
            made = cls(**{**asdict(cls()), **said})
            is_usable = made.days >= 1 and made.versions >= 2 and made.versions == int(made.versions)
        except (ValueError, TypeError, AttributeError) as error:
            raise _unreadable(home, repr(error)) from error
        if not is_usable:
            raise _unreadable(home, f"days={made.days}, versions={made.versions}")
        return made


def needed(home: Home, retention: Retention) -> set[str]:
    """Ids of the bundles that stay, whatever their age."""
    return {
        *_in_routes(home),
        *_in_pods(home),
        *_in_releases(home, retention),
        *unended.needs(home).bundles,
    }


def reclaimable(home: Home, *, now: datetime) -> Garbage:
    """What `tidy` would remove now."""
    retention = Retention.of(home)
    store, grace = Store(home.store), timedelta(days=retention.days)
    blobs = unended.needs(home).blobs
    return find_garbage(store, keep=needed(home, retention), blobs=blobs, now=now, grace=grace)


def tidy(home: Home, *, now: datetime) -> Collected:
    """Remove from the store what is neither needed nor young. May be repeated, and run beside releases."""
    retention = Retention.of(home)
    store, grace = Store(home.store), timedelta(days=retention.days)
    blobs = unended.needs(home).blobs
    return collect_garbage(store, keep=needed(home, retention), blobs=blobs, now=now, grace=grace)


def _in_routes(home: Home) -> Iterator[str]:
    router = EnvoyFileRouter(home)
    for service in router.services():
        route = router.read(service)
        yield from (arm.bundle_id for arm in (route.stable, route.candidate) if arm is not None)


def _in_pods(home: Home) -> Iterator[str]:
    yield from (record.deployment.bundle_id for record in records(home))


def _in_releases(home: Home, retention: Retention) -> Iterator[str]:
    journal = Journal(home.journal)
    for service in journal.services():
        states = journal.releases(service)
        yield from (
            DeploymentId.parse(state.deployment_id).bundle_id for state in states if not state.phase.is_final
        )
        promoted = [
            DeploymentId.parse(state.deployment_id).bundle_id
            for state in reversed(states)
            if state.phase in (Phase.WATCHING, Phase.DONE)
        ]
        yield from list(dict.fromkeys(promoted))[: retention.versions]


def _unreadable(home: Home, what: str) -> Permanent:
    return Permanent(
        f"`retention` in {home.config} is not usable: {what}",
        remedy='Write {"days": 30, "versions": 5}: at least 1 day, and at least 2 whole versions, so that '
        "there is one to go back to.",
    )

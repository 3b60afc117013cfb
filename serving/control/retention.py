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
from serving.control import unfinished_releases
from serving.control.rollout.plan import Phase, RolloutState
from serving.control.wiring import Services
from serving.home import Home
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


@dataclass(frozen=True, slots=True)
class Stays:
    """What stays in the store at any age (`bundles` by id, `blobs` by digest), and for how long the rest."""

    bundles: frozenset[str]
    blobs: frozenset[str]
    grace: timedelta


def needed(services: Services, retention: Retention) -> Stays:
    """Raises what a route or a release that cannot be read raises: then nothing may be removed."""
    unfinished = unfinished_releases.needed_by_unfinished(services)
    bundles = {
        *_in_routes(services),
        *(ref.bundle_id for ref in services.platform.deployments()),
        *_in_releases(services, retention),
        *unfinished.bundles,
    }
    return Stays(frozenset(bundles), unfinished.blobs, timedelta(days=retention.days))


def reclaimable(services: Services, *, now: datetime) -> Garbage:
    """What `tidy` would remove now."""
    stays = needed(services, Retention.of(services.home))
    return find_garbage(services.store, keep=stays.bundles, blobs=stays.blobs, now=now, grace=stays.grace)


def tidy(services: Services, *, now: datetime) -> Collected:
    """Remove from the store what is neither needed nor young. May be repeated, and run beside releases."""
    stays = needed(services, Retention.of(services.home))
    return collect_garbage(services.store, keep=stays.bundles, blobs=stays.blobs, now=now, grace=stays.grace)


def _in_routes(services: Services) -> Iterator[str]:
    for service in services.router.services():
        route = services.router.read(service)
        yield from (arm.bundle_id for arm in (route.stable, route.candidate) if arm is not None)


def _in_releases(services: Services, retention: Retention) -> Iterator[str]:
    by_service: dict[str, list[RolloutState]] = {}
    for state in services.journal.every():
        by_service.setdefault(state.service, []).append(state)
    for states in by_service.values():
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

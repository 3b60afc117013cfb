"""How a release ends, whatever happened: traffic first, then the lock, then the books."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from serving.control.queries import outcomes
from serving.control.release_deployment import CHAMPION, route_of
from serving.control.releases import Release
from serving.control.rollout.lock import Claim, LockOutcome
from serving.control.rollout.plan import RolloutState
from serving.control.traffic import RolloutPhase, RolloutProgress
from serving.control.wiring import Services
from serving.types import Deployment

STATUS = "slipway.status"
REASON = "slipway.reason"
BUNDLE = "slipway.bundle"
RELEASE = "slipway.release"
LONGEST_TAG = 1000


class VersionStatus(StrEnum):
    """What became of a version. The tag `slipway.status` says it."""

    RELEASING = "releasing"
    PROMOTED = "promoted"
    BLOCKED = "blocked"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class ReleaseEnd:
    """What became of a release, and why in words."""

    status: VersionStatus
    reason: str


def mark_releasing(services: Services, release: Release) -> None:
    """Say on the version that a release of it is on its way, and which. Needs MLflow."""
    reason = release.request.reason or f"asked for by {release.request.by}"
    tags = {STATUS: VersionStatus.RELEASING.value, REASON: reason, RELEASE: release.id}
    services.registry.set_tags(release.ref, tags)


def finalize_traffic(services: Services, release: Release, failures: Mapping[str, str]) -> ReleaseEnd:
    """Have traffic and pods left as the ending demands; nothing here needs MLflow. May be repeated.

    `failures`: what the tasks that failed said, by task. With any, a release that is not over is rolled back.
    A promoted one is still watched, and its watch is the controller's.
    """
    return _end_of(services.rollouts.end(release.id, reason=_why(failures)), failures)


def retire_unrouted(services: Services, release: Release) -> list[str]:
    """End the pods of this model that no route names; returns their ids.

    Only with the release lock in hand: pods that a newer release is making ready are in no route yet.
    """
    claim = Claim(release.request.at, release.id)
    holder = services.lock.read(release.model).holder
    if holder not in (None, claim) or services.lock.acquire(release.model, claim) is not LockOutcome.HELD:
        return []
    return retire_unnamed(services, release.model, release.id)


def retire_unnamed(services: Services, model: str, holder: str) -> list[str]:
    """End the pods of this model that no route names; returns their ids. Only for who has the lock.

    A rollback takes the lock from a release that is over: what it makes ready from then on stays.
    """
    route = route_of(services, model)
    named = {arm.id for arm in (route.stable, route.candidate) if arm} if route else set()
    retired = []
    for pods in services.platform.deployments(model):
        if pods.id in named:
            continue
        now = services.lock.read(model).holder
        if now is None or now.release_id != holder:
            break
        services.platform.retire(pods)
        retired.append(pods.id)
    return retired


def record_in_registry(
    services: Services, release: Release, ending: ReleaseEnd, *, bundle_id: str | None
) -> None:
    """Write the ending on the version, and put the alias `champion` where the traffic is. Needs MLflow."""
    if ending.status is VersionStatus.ROLLED_BACK:
        _return_champion(services, release)
    tags = {STATUS: ending.status.value, REASON: ending.reason[:LONGEST_TAG], RELEASE: release.id}
    services.registry.set_tags(release.ref, tags | ({BUNDLE: bundle_id} if bundle_id else {}))


def is_recorded_as_promoted(services: Services, state: RolloutState) -> bool:
    """Whether the release's run told the world that it was promoted, and nothing else since."""
    outcome = outcomes.of(services.rows, state.release_id)
    return outcome is not None and outcome.status == VersionStatus.PROMOTED


def _return_champion(services: Services, release: Release) -> None:
    """A version that lost its traffic is no champion: the alias goes to the one that has it now."""
    if services.registry.aliases(release.model).get(CHAMPION) != release.version:
        return
    if stable := _stable(services, release.model):
        services.registry.set_alias(type(release.ref)(release.model, stable.version), CHAMPION)
    else:
        services.registry.delete_alias(release.model, CHAMPION)


def _stable(services: Services, model: str) -> Deployment | None:
    route = route_of(services, model)
    return route.stable if route else None


def _end_of(rollout: RolloutProgress, failures: Mapping[str, str]) -> ReleaseEnd:
    match rollout.phase:
        case RolloutPhase.UNKNOWN:
            return ReleaseEnd(VersionStatus.BLOCKED, _why(failures) or "ended before traffic")
        case RolloutPhase.ROLLED_BACK:
            return ReleaseEnd(VersionStatus.ROLLED_BACK, rollout.words)
    return ReleaseEnd(VersionStatus.PROMOTED, rollout.words)


def _why(failures: Mapping[str, str]) -> str:
    return "; ".join(f"{task_id}: {words}" for task_id, words in failures.items())

"""From a published bundle to users: deploy, roll out, promote. Every function may be repeated."""

from __future__ import annotations

from collections.abc import Callable

from model_store.bundle.publishing import open_bundle
from model_store.errors import Permanent, Retryable
from model_store.types import Bundle
from serving.control.releases import Release
from serving.control.rollout.journal import UnknownRelease
from serving.control.rollout.plan import Phase, RolloutState
from serving.control.wiring import Services
from serving.gateway.router.base import UnknownService
from serving.platforms.base import DeploymentPhase, DeploymentSpec, DeploymentStatus
from serving.types import Deployment, DeploymentId, DeploymentRef, Route, Slot

CHAMPION = "champion"


class RolledBack(Permanent):
    """The version was taken out of traffic. Its release is over; another try is another release."""

    def __init__(self, release: Release, reason: str) -> None:
        super().__init__(
            f"{release.ref} was rolled back: {reason}",
            remedy="read the verdicts in the evidence; a new release of the version tries again",
        )


class PodsFail(Permanent):
    """The platform has given up on a deployment's pods; their last words are in the message."""


def deploy(
    services: Services, release: Release, bundle_id: str, *, require_turn: Callable[[], None] = lambda: None
) -> DeploymentRef:
    """Start pods of the bundle where no traffic is; they may not be ready yet.

    `require_turn` raises where the release lost its turn while the bundle was fetched, which takes minutes
    where it is large: its pods would take the place of those that somebody makes ready there.

    Ends what else still claims that place: the watch of the release before (its candidate becomes stable),
    and a rollout whose run is gone, which is rolled back.
    """
    bundle = open_bundle(services.store, bundle_id)
    if state := state_of(services, release):
        return _replace(services, release, bundle, state)
    require_turn()
    retire_slot_beside_stable(services, release.model, release.id)
    route = route_of(services, release.model)
    slot = route.stable.slot.other if route and route.stable else Slot.BLUE
    return start_pods(services, bundle, slot, replicas=release.spec.serving.replicas)


def start_pods(services: Services, bundle: Bundle, slot: Slot, *, replicas: int) -> DeploymentRef:
    """Have the platform run the bundle in this slot, in place of what else stands there."""
    ref = DeploymentRef(bundle.model.name, slot, bundle.id, bundle.model.version)
    services.platform.apply(ref, DeploymentSpec(bundle, replicas))
    return ref


def serves_already(services: Services, release: Release, bundle_id: str) -> bool:
    """Whether this very bundle has all the traffic, through another release than this one."""
    if state_of(services, release):
        return False
    route = route_of(services, release.model)
    if route is None:
        return False
    serving = route.candidate if route.split.candidate == 100 else route.stable
    return serving is not None and serving.bundle_id == bundle_id


def status_of(services: Services, model: str, deployment_id: str) -> DeploymentStatus:
    """How the deployment is, and why it is not ready.

    Raises `Retryable` when it is gone, and `PodsFail` when the platform has given up on it.
    """
    found = [ref for ref in services.platform.deployments(model) if ref.id == deployment_id]
    status = services.platform.status(found[0]) if found else None
    if status is None or status.phase is DeploymentPhase.NOT_FOUND:
        raise Retryable(
            f"the pods of {deployment_id} are gone",
            remedy="clear the task `roll_out` of this run, which starts them again",
        )
    if status.phase is DeploymentPhase.FAILED:
        raise PodsFail(status.reason, remedy=status.remedy or "release a version whose pods start")
    return status


def require_promoted(services: Services, release: Release) -> RolloutState:
    """The state of a release that passed every step and still serves. Raises `Permanent` otherwise."""
    state = services.journal.load(release.id)
    require_not_rolled_back(release, state)
    route = services.router.read(release.model)
    serving = route.candidate if state.phase is Phase.WATCHING else route.stable
    if state.phase is Phase.PROGRESSING or serving is None or serving.id != state.deployment_id:
        raise Permanent(
            f"{release.ref} does not serve: {route.stable.id if route.stable else 'nothing'} does",
            remedy="to go back to this version run model_rollback",
        )
    return state


def require_not_rolled_back(release: Release, state: RolloutState) -> None:
    """Raises `RolledBack` when the release was."""
    if state.phase is Phase.ROLLED_BACK:
        raise RolledBack(release, state.reason)


def move_champion(services: Services, release: Release) -> None:
    services.registry.set_alias(release.ref, CHAMPION)


def state_of(services: Services, release: Release) -> RolloutState | None:
    """The rollout of this release, None before it began."""
    return state_of_id(services, release.id)


def state_of_id(services: Services, release_id: str) -> RolloutState | None:
    """The same, of a release by its id."""
    try:
        return services.journal.load(release_id)
    except UnknownRelease:
        return None


def route_of(services: Services, model: str) -> Route | None:
    """The model's route, None before its first release."""
    try:
        return services.router.read(model)
    except UnknownService:
        return None


def _replace(services: Services, release: Release, bundle: Bundle, state: RolloutState) -> DeploymentRef:
    """The pods of a rollout that began: started again if they are gone, in the slot they had.

    Only of the bundle it began with: verdicts and approvals were given for those bytes.
    """
    require_not_rolled_back(release, state)
    if (began_with := DeploymentId.parse(state.deployment_id).bundle_id) != bundle.id:
        raise Permanent(
            f"the rollout of {release.id} began with bundle {began_with}, and its run built {bundle.id} now",
            remedy="release the version again; this rollout ends with its run",
        )
    route = services.router.read(release.model)
    for standing in (route.candidate, route.stable):
        if standing and standing.id == state.deployment_id:
            return start_pods(services, bundle, standing.slot, replicas=release.spec.serving.replicas)
    raise Permanent(
        f"{release.ref} served once and was replaced since",
        remedy="to go back to this version run model_rollback",
    )


def retire_slot_beside_stable(services: Services, model: str, holder: str) -> None:
    """End what still claims the slot beside stable. `holder`: who has the release lock, and begins now."""
    for other in services.journal.releases(model):
        if other.phase is Phase.WATCHING:
            services.rollouts.finish_watch(other.release_id, reason=f"{holder} began")
        elif other.phase is Phase.PROGRESSING:
            # The lock is somebody else's, so nobody moves this one on any more.
            services.rollouts.roll_back(other.release_id, reason=f"its run ended; {holder} began")


def deployment_of(services: Services, model: str, deployment_id: str) -> Deployment:
    """What runs, and where it does now. Raises as `status_of`, and `Retryable` while it is not ready."""
    status = status_of(services, model, deployment_id)
    if not status.is_ready:
        raise Retryable(f"{deployment_id} is not ready: {status.reason}", remedy="wait until it is")
    ref = next(ref for ref in services.platform.deployments(model) if ref.id == deployment_id)
    return Deployment(ref, status.endpoints)

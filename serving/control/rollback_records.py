"""What MLflow is told of a rollback, once the traffic is back: alias, tags and evidence.

A version that somebody deleted there may still be gone back to: its bundle is in the store. It has nothing
to tag, and that is said, not failed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from model_store.registry import Evidence, EvidenceRun, UnknownVersion
from model_store.types import ModelRef
from serving.control.finalization import REASON, STATUS, VersionStatus
from serving.control.release_deployment import CHAMPION
from serving.control.rollbacks import RequestedRollback, describe_reason
from serving.control.wiring import Services

INCIDENT = "slipway.incident"


@dataclass(frozen=True, slots=True)
class RecordedRollback:
    """What MLflow has now. `evidence` None: neither version is there any more to have any."""

    evidence: EvidenceRun | None
    has_returned: bool
    words: str


def record(services: Services, rollback: RequestedRollback, *, at: datetime) -> RecordedRollback:
    """Alias, tags and evidence, of the versions that are there. Needs MLflow; may be repeated."""
    leaves, returns = (ModelRef(rollback.model, number) for number in (rollback.leaves, rollback.returns))
    evidence = _log(services, rollback, (leaves, returns), at=at)
    left = {
        STATUS: VersionStatus.ROLLED_BACK.value,
        REASON: describe_reason(rollback.request),
        INCIDENT: rollback.request.incident,
    }
    came_back = f"came back when version {rollback.leaves} was rolled back: {rollback.request.reason}"
    has_left = _tag(services, leaves, left)
    has_returned = _tag(services, returns, {STATUS: VersionStatus.PROMOTED.value, REASON: came_back})
    if has_returned:
        services.registry.set_alias(returns, CHAMPION)
    else:
        _leave_no_champion(services, rollback.model)
    return RecordedRollback(
        evidence, has_returned, _words(rollback, has_left=has_left, has_returned=has_returned)
    )


def _log(
    services: Services, rollback: RequestedRollback, versions: tuple[ModelRef, ...], *, at: datetime
) -> EvidenceRun | None:
    """On the first of the versions that is there."""
    for version in versions:
        try:
            return services.registry.log_evidence(version, _evidence(rollback, at=at))
        except UnknownVersion:
            continue
    return None


def _tag(services: Services, version: ModelRef, tags: Mapping[str, str]) -> bool:
    """Whether the version is there."""
    try:
        services.registry.set_tags(version, tags)
    except UnknownVersion:
        return False
    return True


def _leave_no_champion(services: Services, model: str) -> None:
    """The alias would name a version that does not serve."""
    try:
        services.registry.delete_alias(model, CHAMPION)
    except UnknownVersion:
        return


def _words(rollback: RequestedRollback, *, has_left: bool, has_returned: bool) -> str:
    gone = "the registry no longer has version"
    said = [f"version {rollback.returns} is champion"]
    if not has_returned:
        serves = f"version {rollback.returns} serves, and no version is champion"
        said = [f"{serves}: {gone} {rollback.returns}" if rollback.returns else "no version serves any more"]
    if not has_left:
        said.append(f"{gone} {rollback.leaves}, which left")
    return "; ".join(said)


def _evidence(rollback: RequestedRollback, *, at: datetime) -> Evidence:
    return Evidence(
        release_id=rollback.id,
        status="FINISHED",
        started_at=rollback.request.at,
        ended_at=at,
        description=f"**{rollback.model}: version {rollback.leaves} was rolled back to {rollback.returns}.** "
        f"{describe_reason(rollback.request)}",
        params={"leaves": rollback.leaves, "returns": rollback.returns, "by": rollback.request.by},
        tags={REASON: rollback.request.reason, INCIDENT: rollback.request.incident},
    )

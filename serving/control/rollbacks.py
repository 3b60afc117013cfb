"""Back to an earlier version on request: traffic at once where it is warm, else from its bundle in the store.

Nothing before the last step needs MLflow, so that a rollback works while MLflow is down.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

from model_store.bundle.publishing import open_bundle
from model_store.errors import Permanent, Retryable
from model_store.storage.base import Missing
from serving.control.audit_entries import exclusively
from serving.control.release_deployment import deployment_of, retire_slot_beside_stable, route_of, start_pods
from serving.control.rollout.apply import NotRecorded
from serving.control.rollout.journal import UnknownRelease
from serving.control.rollout.lock import Claim, LockOutcome
from serving.control.rollout.plan import Phase, RolloutState
from serving.control.traffic import RollbackPhase, RollbackProgress
from serving.control.wiring import Services
from serving.ledger.base import Unknown
from serving.ledger.changing import change
from serving.ledger.rows import LockRow
from serving.ledger.rows import RequestRow as RequestRow
from serving.types import ALL_STABLE, Deployment, DeploymentId, DeploymentRef, Route, Slot

DAG_ID = "model_rollback"
# What rollbacks are among the ledger's requests, and how they stand there.
ROLLBACK, OPEN, DONE, FAILED = "rollback", "open", "done", "failed"
# What the runs of alerts, and those of what the controller did by itself, are named by; no person's run is.
ALERT_RUN, WATCH_RUN = "alert__", "watch__"
CONTROLLER = "the controller"
_NEVER = datetime.min.replace(tzinfo=UTC)

log = logging.getLogger(__name__)


class UnknownRollback(Permanent):
    """No rollback has this id, or it could not be written down yet."""


class AlreadyRolledBack(Permanent):
    """Somebody else went back between the wish and its turn: once more would be one version too far."""


@dataclass(frozen=True, slots=True)
class RollbackRequest:
    """What the form said. `version` None: the one that served before the present one."""

    model: str
    version: int | None
    reason: str
    incident: str
    by: str
    run_id: str
    at: datetime

    @property
    def is_from_alert(self) -> bool:
        """Whether no person asked."""
        return self.run_id.startswith(ALERT_RUN)

    @property
    def is_from_controller(self) -> bool:
        """Whether it was done before anybody asked: the run of it is for the record alone."""
        return self.run_id.startswith(WATCH_RUN)


@dataclass(frozen=True, slots=True)
class RequestedRollback:
    """A wish whose two versions are known."""

    id: str
    request: RollbackRequest
    leaves: int
    returns: int

    @property
    def model(self) -> str:
        return self.request.model


def is_rollback_id(model: str, name: str) -> bool:
    """Whether the id is a rollback's, and not a release's."""
    return name.startswith(f"{model}-rollback-")


def begin(services: Services, request: RollbackRequest) -> RequestedRollback:
    """Fix from where to where, and give traffic back at once if the version is warm. May be repeated.

    Raises `AlreadyRolledBack` when no version was named and somebody went back since.
    """
    rollback = resolve(services, request)
    for state in _active(services, rollback.model):
        # Not what began since: this may be an old run, cleared by somebody.
        if state.started_at <= request.at:
            services.rollouts.roll_back(state.release_id, reason=describe_reason(request))
    _return_unjudged(services, rollback)
    return rollback


def return_before_books(services: Services, request: RollbackRequest) -> tuple[int, int] | None:
    """Where nothing can be written down now: give the candidate's traffic back to stable, where something
    is. Returns from which version to which, None if nothing could be done yet.

    An older version than stable's is started again once that can be written down; until then stable serves.
    """
    route = route_of(services, request.model)
    active = [state for state in _active(services, request.model) if state.started_at <= request.at]
    if route is None or route.stable is None or not active:
        return None
    leaves = active[-1].version
    returns = request.version if request.version is not None else route.stable.version
    if leaves in (returns, route.stable.version):
        return None
    for state in active:
        with suppress(NotRecorded):
            services.rollouts.roll_back(state.release_id, reason=describe_reason(request))
    return leaves, returns


def write_down(services: Services, request: RollbackRequest, between: tuple[int, int]) -> RequestedRollback:
    """What `return_before_books` did. May be repeated."""
    leaves, returns = between
    known = _resolved_before(services, request)
    return known or _created(services, request, leaves=leaves, returns=returns)


def _return_unjudged(services: Services, rollback: RequestedRollback) -> None:
    """From a candidate of which no rollout is known: what ran was adopted beside an older ledger."""
    route = route_of(services, rollback.model)
    if route and rollback.leaves == _unjudged(services, route) and rollback.returns == _version(route.stable):
        services.router.write(
            rollback.model, ALL_STABLE, stable=route.stable, candidate=route.candidate, at=route.revision
        )


def _unjudged(services: Services, route: Route) -> int | None:
    """The candidate's version, where it has traffic and no rollout under way is of it."""
    has_traffic = route.split.candidate > 0 and route.stable is not None
    return _version(route.candidate) if has_traffic and not _active(services, route.service) else None


def _version(arm: Deployment | None) -> int | None:
    return arm.version if arm else None


def resolve(services: Services, request: RollbackRequest) -> RequestedRollback:
    """Write down from where to where. The run of a wish that was fixed before takes what is written.

    Raises `AlreadyRolledBack` as `begin`.
    """
    return _resolved_before(services, request) or _new(services, request)


def note_way_back(services: Services, state: RolloutState) -> None:
    """Write down that a promoted version was taken back within its watch, unless somebody's rollback did it.

    Once, however often it is called. `returns` is 0 where no version served before.
    """
    of_model = (rollback for rollback, _ in _kept(services, service=state.service))
    known = [rollback for rollback in of_model if rollback.leaves == state.version]
    if any(rollback.request.at >= state.started_at for rollback in known):
        return
    run_id = f"{WATCH_RUN}{state.release_id}"
    at = state.step_started_at
    request = RollbackRequest(state.service, state.previous_version, state.reason, "", CONTROLLER, run_id, at)
    rollback = _created(services, request, leaves=state.version, returns=state.previous_version or 0)
    note_returned(services, rollback)


def taken_back(services: Services, rollback: RequestedRollback) -> list[RolloutState]:
    """Rollouts of the version that left which went back, the oldest first."""
    of_model = services.journal.releases(rollback.model)
    return [s for s in of_model if s.version == rollback.leaves and s.phase is Phase.ROLLED_BACK]


def load(services: Services, rollback_id: str) -> RequestedRollback:
    """Raises `Permanent` when no rollback has this id."""
    return of_row(_row(services, rollback_id))


def of_run(services: Services, model: str, run_id: str) -> RequestedRollback:
    """The rollback that a run is about. Raises `Permanent` while it is not fixed."""
    for one in all_of(services, model):
        if one.rollback.request.run_id == run_id:
            return one.rollback
    raise Permanent(f"nothing is known of the run {run_id}", remedy="roll back again")


@dataclass(frozen=True, slots=True)
class RollbackRecord:
    """A rollback, and when it gave the traffic to a version that had to be started; None if it did not."""

    rollback: RequestedRollback
    switched_at: datetime | None


def all_of(services: Services, model: str) -> list[RollbackRecord]:
    """Every rollback of a model that was asked for."""
    kept = _kept(services, service=model)
    return [RollbackRecord(rollback, _switched_at(row.document)) for rollback, row in kept]


def serving_again(services: Services, rollback: RequestedRollback) -> Deployment | None:
    """The deployment of the version that was asked for, if it has all traffic already."""
    route = route_of(services, rollback.model)
    stable = route.stable if route and route.split == ALL_STABLE else None
    return stable if stable and stable.version == rollback.returns else None


def return_who_began_since(services: Services, rollback: RequestedRollback) -> None:
    """Roll a release back that was asked for before the rollback, and got to its traffic only after it.

    A rollback waits for no release; and who saw trouble knew nothing of a version that had no traffic yet.
    """
    holder = services.lock.read(rollback.model).holder
    for state in _active(services, rollback.model):
        if holder and holder.release_id == state.release_id and holder.requested_at <= rollback.request.at:
            services.rollouts.roll_back(state.release_id, reason=describe_reason(rollback.request))


def acquire_lock(services: Services, rollback: RequestedRollback) -> bool:
    """Take the release lock. A rollback is always the newest request: releases that wait are superseded.

    So is a holder that still builds or waits for people, or whose rollout is over: it moves no traffic (any
    more), and users would wait for Airflow with it.
    """
    with exclusively(services, rollback.model):
        holder = services.lock.read(rollback.model).holder
        if holder and holder.release_id == rollback.id:
            return True
        if holder and (_has_not_begun(services, rollback.model, holder) or _is_over(services, holder)):
            services.lock.release(rollback.model, holder.release_id)
        # Asked for now, at every look: whoever came meanwhile does not come before a rollback.
        claim = Claim(datetime.now(UTC), rollback.id)
        return services.lock.acquire(rollback.model, claim) is LockOutcome.HELD


def deploy(services: Services, rollback: RequestedRollback) -> DeploymentRef:
    """Start the version's pods from its bundle, in the slot that does not serve.

    A version that is still watched has its traffic there: it becomes stable first.
    """
    bundle = open_bundle(services.store, bundle_of(services, rollback.model, rollback.returns))
    retire_slot_beside_stable(services, rollback.model, rollback.id)
    route = route_of(services, rollback.model)
    slot = route.stable.slot.other if route and route.stable else Slot.BLUE
    replicas = int(_manifest(services, bundle.id)["serving"]["replicas"])
    return start_pods(services, bundle, slot, replicas=replicas)


def ready_seconds(services: Services, deployment: DeploymentRef, *, usually: float) -> float:
    """How long its pods may take, as its bundle says: no file of another release can be in the way."""
    serving = _manifest(services, deployment.bundle_id)["serving"]
    return float(serving.get("ready_timeout_seconds", usually))


def switch_traffic(services: Services, rollback: RequestedRollback, deployment_id: str) -> None:
    """All traffic to the deployment, by one write."""
    deployment = deployment_of(services, rollback.model, deployment_id)
    route = route_of(services, rollback.model)
    if route is None or route.stable is None or route.stable.ref != deployment.ref:
        at = route.revision if route else 0
        services.router.write(rollback.model, ALL_STABLE, stable=deployment, candidate=None, at=at)
    services.router.move(deployment)
    note_returned(services, rollback)


def note_returned(services: Services, rollback: RequestedRollback) -> None:
    """Write down, once, that the version has all traffic, and since when."""
    at = datetime.now(UTC)
    words = f"version {rollback.returns} has all traffic"
    _note(services, rollback, "switched_at", at.isoformat(), status=DONE, answered_at=at, answer=words)


def note_failed(services: Services, rollback: RequestedRollback, why: str) -> None:
    """Write down why requests do not go there."""
    _note(services, rollback, "failed", why, status=FAILED, answered_at=datetime.now(UTC), answer=why)


def note_recorded(services: Services, rollback: RequestedRollback) -> None:
    """Write down that MLflow knows of it, so that no run of Airflow's has to tell it."""
    _note(services, rollback, "recorded_at", datetime.now(UTC).isoformat())


def progress_of(services: Services, rollback_id: str) -> RollbackProgress:
    """How far it has come. Raises `Permanent` when no rollback has this id."""
    row = _row(services, rollback_id)
    rollback, saved = of_row(row), row.document
    phase, words = RollbackPhase.STARTING, f"version {rollback.returns} is being started again"
    if saved.get("switched_at"):
        phase, words = RollbackPhase.RETURNED, f"version {rollback.returns} has all traffic"
    elif saved.get("failed"):
        phase, words = RollbackPhase.FAILED, str(saved["failed"])
    return RollbackProgress(rollback.id, rollback.model, rollback.leaves, rollback.returns, phase, words)


def is_carried_out(services: Services, rollback_id: str) -> bool:
    """Whether nothing of it is left to be done, as of one that nobody knows (any more)."""
    try:
        return progress_of(services, rollback_id).phase.is_final
    except Permanent:
        return True


def under_way(services: Services) -> Iterator[RequestedRollback]:
    """Those that the controller has begun and not ended. Those of before it did are left alone."""
    for rollback, row in _kept(services, status=OPEN):
        if not row.document.get("switched_at") and not row.document.get("failed"):
            yield rollback


def not_cleared_away(services: Services) -> Iterator[RequestedRollback]:
    """Those that are over and have the lock of their model: their end came before they could give it back."""
    for turn in services.rows.find(LockRow):
        if turn.holder and is_rollback_id(turn.service, turn.holder):
            for rollback, row in _kept(services, id=turn.holder):
                if row.status != OPEN:
                    yield rollback


def unrecorded(services: Services, *, before: datetime) -> Iterator[RequestedRollback]:
    """Those whose traffic is back and which no run of Airflow's has recorded; those of people and alerts if
    they were asked for until then, as who asked starts the run."""
    for rollback, row in _kept(services, status=DONE):
        saved = row.document
        is_back = saved.get("by_controller") and saved.get("switched_at")
        is_due = rollback.request.is_from_controller or rollback.request.at <= before
        if is_back and not saved.get("recorded_at") and is_due:
            yield rollback


def _kept(services: Services, **wanted: Any) -> Iterator[tuple[RequestedRollback, RequestRow]]:
    """With what is noted of each. One that is not what it should be is no other's trouble."""
    for row in services.rows.find(RequestRow, action=ROLLBACK, **wanted):
        try:
            rollback = of_row(row)
        except (ValueError, LookupError, TypeError, AttributeError) as problem:
            log.error("%s is passed over: it is no rollback: %r", row.id, problem)
        else:
            yield rollback, row


def _note(services: Services, rollback: RequestedRollback, name: str, value: str, **said: Any) -> None:
    """What is written stays. `said`: of the row itself."""

    def noted(row: RequestRow) -> RequestRow | None:
        if name in row.document:
            return None
        return replace(row, document={**row.document, name: value}, **said)

    change(services.rows, RequestRow, rollback.id, noted)


def _row(services: Services, rollback_id: str) -> RequestRow:
    """Raises `Permanent` when no rollback has this id."""
    try:
        return services.rows.get(RequestRow, rollback_id)
    except Unknown:
        raise UnknownRollback(f"nothing is known of {rollback_id}", remedy="roll back again") from None


def finalize(services: Services, rollback: RequestedRollback) -> None:
    """End the pods no route names, and give the lock back.

    While a release holds the lock its own settlement does that: no need to supersede who waits for it.
    """
    holder = services.lock.read(rollback.model).holder
    if (holder is None or holder.release_id == rollback.id) and acquire_lock(services, rollback):
        route = route_of(services, rollback.model)
        named = {arm.id for arm in (route.stable, route.candidate) if arm} if route else set()
        for pods in services.platform.deployments(rollback.model):
            if pods.id not in named:
                services.platform.retire(pods)
    services.lock.release(rollback.model, rollback.id)


def bundle_of(services: Services, model: str, version: int) -> str:
    """The newest bundle of a version that was rolled out before: going back approves nothing.

    Raises `Permanent` listing the versions that have one; `Retryable` while their bucket is away.
    """
    found, away = _bundles(services, model)
    if version in found:
        return found[version]
    if away is not None:
        raise away
    raise Permanent(
        f"the store has no bundle of {model} v{version} that was ever rolled out",
        remedy=f"versions with one: {', '.join(map(str, sorted(found))) or 'none'}; or release the version",
    )


def _bundles(services: Services, model: str) -> tuple[dict[int, str], Retryable | None]:
    """The newest bundle of each version that was rolled out; and why some could not be looked for."""
    rolled_out = (
        DeploymentId.parse(state.deployment_id).bundle_id for state in services.journal.releases(model)
    )
    found: dict[int, str] = {}
    away: Retryable | None = None
    for bundle in dict.fromkeys(rolled_out):
        try:
            found[int(_manifest(services, bundle)["model"]["version"])] = bundle
        except Missing:
            continue
        except Retryable as error:
            away = error
    return found, away


def _manifest(services: Services, bundle_id: str) -> dict[str, Any]:
    return dict(json.loads(services.store.manifest(bundle_id, here_first=True)))


def _active(services: Services, model: str) -> list[RolloutState]:
    return [state for state in services.journal.releases(model) if not state.phase.is_final]


def _new(services: Services, request: RollbackRequest) -> RequestedRollback:
    if request.version is None and _last_rollback_at(services, request.model) > request.at:
        raise AlreadyRolledBack(
            f"{request.model} was rolled back since this was asked for",
            remedy="to go back further, name the version",
        )
    leaves, before = serving_versions(services, request.model)
    returns = request.version if request.version is not None else before
    if returns is None:
        raise Permanent(
            f"{request.model} v{leaves} is the first: no version served before it",
            remedy="name the version to go back to",
        )
    if returns == leaves:
        raise Permanent(f"{request.model} v{returns} serves already", remedy="name another version")
    return _created(services, request, leaves=leaves, returns=returns)


def _created(services: Services, request: RollbackRequest, *, leaves: int, returns: int) -> RequestedRollback:
    for again in count():
        rollback = named(request, leaves=leaves, returns=returns, again=again)
        if services.rows.create(to_row(rollback)):
            return rollback
    raise AssertionError("counting never ends")


def named(request: RollbackRequest, *, leaves: int, returns: int, again: int = 0) -> RequestedRollback:
    """With the id that it has; `again`: of another within the second."""
    stamp = f"{request.at.astimezone(UTC):%Y%m%dT%H%M%SZ}" + (f"-{again}" if again else "")
    return RequestedRollback(f"{request.model}-rollback-{stamp}", request, leaves, returns)


def serving_versions(services: Services, model: str) -> tuple[int, int | None]:
    """The version users are given now (the candidate of a release under way), and the one before it."""
    route = services.router.read(model)
    if active := _active(services, model):
        return active[-1].version, active[-1].previous_version
    if route.stable is None:
        raise Permanent(f"no version of {model} serves", remedy="release one")
    if unjudged := _unjudged(services, route):
        return unjudged, route.stable.version
    releases = services.journal.releases(model)
    of_stable = [s for s in releases if s.version == route.stable.version and s.phase is Phase.DONE]
    return route.stable.version, of_stable[-1].previous_version if of_stable else None


def _last_rollback_at(services: Services, model: str) -> datetime:
    """When traffic was last taken back, by whomever: not when somebody asked for it, which was before."""
    by_release = [s.step_started_at for s in services.journal.releases(model) if s.phase is Phase.ROLLED_BACK]
    asked_for = [_told_at(rollback, row) for rollback, row in _kept(services, service=model)]
    return max([*by_release, *asked_for], default=_NEVER)


def _told_at(rollback: RequestedRollback, row: RequestRow) -> datetime:
    """When traffic went back, or else when it was known from where to where."""
    said = row.document.get("switched_at") or row.document.get("resolved_at")
    return datetime.fromisoformat(said) if said else rollback.request.at


def _has_not_begun(services: Services, model: str, holder: Claim) -> bool:
    """Whether it is a release without a rollout."""
    if is_rollback_id(model, holder.release_id):
        return False
    try:
        services.journal.load(holder.release_id)
    except UnknownRelease:
        return True
    return False


def _is_over(services: Services, holder: Claim) -> bool:
    """Whether its rollout is."""
    try:
        return services.journal.load(holder.release_id).phase.is_final
    except UnknownRelease:
        return False


def _resolved_before(services: Services, request: RollbackRequest) -> RequestedRollback | None:
    of_model = (rollback for rollback, _ in _kept(services, service=request.model))
    return next((one for one in of_model if one.request.run_id == request.run_id), None)


def to_row(rollback: RequestedRollback) -> RequestRow:
    """As the ledger keeps it from the beginning."""
    request = rollback.request
    kept = {name: value for name, value in asdict(rollback).items() if name != "request"}
    said = {**asdict(request), "at": request.at.isoformat()}
    document = {"schema": 1, "by_controller": True, **kept, "wish": said}
    return RequestRow(
        id=rollback.id,
        service=request.model,
        action=ROLLBACK,
        by=request.by,
        reason=request.reason,
        at=request.at,
        status=OPEN,
        document={**document, "resolved_at": datetime.now(UTC).isoformat()},
    )


def of_row(row: RequestRow) -> RequestedRollback:
    """The inverse. Raises ValueError, KeyError or TypeError for what is no rollback."""
    saved = row.document
    request = RollbackRequest(**{**saved["wish"], "at": datetime.fromisoformat(saved["wish"]["at"])})
    return RequestedRollback(saved["id"], request, saved["leaves"], saved["returns"])


def _switched_at(saved: Mapping[str, Any]) -> datetime | None:
    at = saved.get("switched_at")
    return datetime.fromisoformat(at) if at else None


def describe_reason(request: RollbackRequest) -> str:
    """Who wanted it and why, as it is written down everywhere."""
    incident = f", incident {request.incident}" if request.incident else ""
    return f"{request.reason} (asked for by {request.by}{incident})"

"""One model's files as light values, and where each of its releases stands. No clock, no network."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

import orjson

from model_store.release_spec import STORED, Freeze
from serving.control.freeze_enforcement import FREEZE, automatic_hold
from serving.control.queries.outcomes import ReleaseOutcome
from serving.control.queries.statuses import ReleaseStatus
from serving.control.rollout.lock import LockState
from serving.ledger.rows import EventRow, ReleaseRecord, RequestRow, RolloutRow
from serving.types import DeploymentId

_VERSION = re.compile(r"-v(\d+)-\d{8}T\d{6}Z")


@dataclass(frozen=True, slots=True)
class RequestSnapshot:
    """A request, as `serving.control.releases` keeps it, without its spec.

    `bundles`: (id, when) of what its run published, the present one last; `windows`: its spec's freezes.
    """

    id: str
    model: str
    version: int
    at: datetime
    by: str
    reason: str
    dag_id: str
    run_id: str
    dry_run: bool
    approvals: int
    bundles: tuple[tuple[str, datetime], ...] = ()
    windows: tuple[Freeze, ...] = ()


@dataclass(frozen=True, slots=True)
class RolloutSnapshot:
    """A rollout, as the journal keeps it, without its findings."""

    id: str
    model: str
    version: int
    previous_version: int | None
    phase: str
    paused: str
    step: int
    steps: tuple[float, ...]
    started_at: datetime
    changed_at: datetime
    why: str
    generation: int
    strategy: str
    holds: tuple[float, ...]
    events: tuple[tuple[datetime, str, str, float], ...]
    bundle_id: str


@dataclass(frozen=True, slots=True)
class RollbackSnapshot:
    """A rollback that somebody asked for (`serving.control.rollbacks`).

    `switched_at`: when the version had all traffic, None if it did not get it (yet); `failed` says why not.
    `by_controller`: carried out by the controller, and not by tasks of Airflow's as before there was one.
    """

    id: str
    model: str
    leaves: int
    returns: int
    at: datetime
    by: str
    reason: str
    incident: str
    switched_at: datetime | None = None
    run_id: str = ""
    by_controller: bool = False
    failed: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseEntry:
    """All that is known of one release, and what that comes to."""

    id: str
    model: str
    version: int
    at: datetime
    status: ReleaseStatus
    why: str
    changed_at: datetime
    request: RequestSnapshot | None
    rollout: RolloutSnapshot | None
    outcome: ReleaseOutcome | None


def request_snapshot(row: ReleaseRecord) -> RequestSnapshot:
    """Raises ValueError, KeyError or TypeError for what is no request."""
    saved = row.document
    request, approval = saved["request"], saved["spec"].get("approval")
    return RequestSnapshot(
        id=saved["id"],
        model=saved["model"],
        version=saved["version"],
        at=datetime.fromisoformat(request["at"]),
        by=request["by"],
        reason=request["reason"],
        dag_id=request["dag_id"],
        run_id=request["run_id"],
        dry_run=request["dry_run"],
        approvals=approval["required"] if approval else 0,
        bundles=tuple((one["id"], _time(one["at"])) for one in saved.get("bundles", ())),
        windows=_windows(orjson.dumps(saved["spec"].get("freezes") or [])),
    )


@lru_cache(maxsize=1024)
def _windows(saved: bytes) -> tuple[Freeze, ...]:
    """The same object for every release of a spec that stayed the same."""
    return tuple(Freeze.model_validate(one, context=STORED) for one in orjson.loads(saved))


def rollout_snapshot(row: RolloutRow, happened: Iterable[EventRow]) -> RolloutSnapshot:
    """Raises ValueError, KeyError or TypeError for what is no rollout's state."""
    state = row.document
    events = tuple((one.at, one.kind, one.detail, one.candidate_weight) for one in happened)
    return RolloutSnapshot(
        id=row.release_id,
        model=row.service,
        version=row.version,
        previous_version=state["previous_version"],
        phase=row.phase,
        paused=state.get("paused", ""),
        step=state["step"],
        steps=tuple(float(step["split"]["candidate"]) for step in state["plan"]["steps"]),
        started_at=row.started_at,
        changed_at=row.changed_at,
        why=state["reason"],
        # As `serving.control.rollout.journal` counts.
        generation=row.generation - 1,
        strategy=state["plan"]["strategy"],
        holds=tuple(float(step["hold_seconds"]) for step in state["plan"]["steps"]),
        events=events,
        bundle_id=DeploymentId.parse(state["deployment_id"]).bundle_id,
    )


def rollback_snapshot(row: RequestRow) -> RollbackSnapshot:
    """Raises ValueError, KeyError or TypeError for what is no rollback."""
    saved = row.document
    wish = saved["wish"]
    return RollbackSnapshot(
        id=saved["id"],
        model=wish["model"],
        leaves=saved["leaves"],
        returns=saved["returns"],
        at=_time(wish["at"]),
        by=wish["by"],
        reason=wish["reason"],
        incident=wish["incident"],
        switched_at=_time(saved["switched_at"]) if saved.get("switched_at") else None,
        run_id=wish.get("run_id", ""),
        by_controller=saved.get("by_controller", False),
        failed=saved.get("failed", ""),
    )


def entries(
    request: Mapping[str, RequestSnapshot],
    rollout: Mapping[str, RolloutSnapshot],
    outcomes: Mapping[str, ReleaseOutcome],
    lock: LockState,
    back: Iterable[RollbackSnapshot] = (),
) -> tuple[ReleaseEntry, ...]:
    """All releases of one model, the newest first."""
    found = {
        name: _entry(name, request.get(name), rollout.get(name), outcomes.get(name), lock)
        for name in request.keys() | rollout.keys()
    }
    for entry in _rolled_back_later(found.values(), back):
        found[entry.id] = entry
    return tuple(sorted(found.values(), key=lambda entry: (entry.at, entry.id), reverse=True))


def _rolled_back_later(
    found: Collection[ReleaseEntry], back: Iterable[RollbackSnapshot]
) -> Iterator[ReleaseEntry]:
    """Of each version that rollbacks left and did not return to, the newest release, as it stands now."""
    carried_out = [(one.switched_at, one) for one in back if one.switched_at]
    last: dict[int, tuple[datetime, RollbackSnapshot]] = {}
    for at, one in sorted(carried_out, key=lambda each: each[0]):
        last |= {one.leaves: (at, one), one.returns: (at, one)}
    for version, (at, one) in last.items():
        of_version = [e for e in found if e.rollout and e.version == version and e.rollout.started_at < at]
        newest = max(
            of_version, key=lambda entry: entry.rollout.started_at if entry.rollout else at, default=None
        )
        if newest and newest.status is ReleaseStatus.PROMOTED and one.leaves == version:
            why = f"rolled back later by {one.by} to version {one.returns}: {one.reason}"
            yield replace(newest, status=ReleaseStatus.ROLLED_BACK, why=why, changed_at=at)


def version_in(release_id: str) -> int | None:
    """The version a release's id names; a rollback's names none."""
    found = _VERSION.search(release_id)
    return int(found.group(1)) if found else None


def _entry(
    name: str,
    request: RequestSnapshot | None,
    rollout: RolloutSnapshot | None,
    outcome: ReleaseOutcome | None,
    lock: LockState,
) -> ReleaseEntry:
    status, why = _status(name, request, rollout, outcome, lock)
    known = rollout or request
    assert known is not None
    times = [request and request.at, rollout and rollout.changed_at]
    if outcome and rollout is None:
        times.append(outcome.at)
    return ReleaseEntry(
        id=name,
        model=known.model,
        version=known.version,
        at=request.at if request else known.started_at if isinstance(known, RolloutSnapshot) else known.at,
        status=status,
        why=why,
        changed_at=max(at for at in times if at),
        request=request,
        rollout=rollout,
        outcome=outcome,
    )


def _status(
    name: str,
    request: RequestSnapshot | None,
    rollout: RolloutSnapshot | None,
    outcome: ReleaseOutcome | None,
    lock: LockState,
) -> tuple[ReleaseStatus, str]:
    if rollout:
        return _of_rollout(rollout)
    if lock.holder and lock.holder.release_id == name:
        return ReleaseStatus.PREPARING, "building its candidates and checking them against the limits"
    if lock.waiting and lock.waiting.release_id == name:
        return ReleaseStatus.QUEUED, f"waits for {lock.holder.release_id if lock.holder else 'its turn'}"
    if outcome:
        return ReleaseStatus(outcome.status), outcome.reason
    return ReleaseStatus.UNKNOWN, "its files do not say how it stands"


def _of_rollout(rollout: RolloutSnapshot) -> tuple[ReleaseStatus, str]:
    match rollout.phase:
        case "progressing" if held := automatic_hold(rollout.paused):
            return ReleaseStatus.FROZEN if held[0] == FREEZE else ReleaseStatus.PAUSED, held[1]
        case "progressing" if rollout.paused:
            return ReleaseStatus.PAUSED, f"paused {rollout.paused}"
        case "progressing":
            return ReleaseStatus.ROLLING_OUT, rollout.why
        case "watching":
            return ReleaseStatus.WATCHING, rollout.why
        case "done":
            return ReleaseStatus.PROMOTED, rollout.why
    return ReleaseStatus.ROLLED_BACK, rollout.why


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)

"""One model's files as light values, and where each of its releases stands. No clock, no network."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

import orjson

from model_store.release_spec import STORED, Freeze
from serving.control.freezing import FREEZE, held_by_itself
from serving.control.queries.outcomes import Outcome
from serving.control.queries.statuses import Status
from serving.control.rollout.lock import Claim, LockState
from serving.types import DeploymentId

_VERSION = re.compile(r"-v(\d+)-\d{8}T\d{6}Z")


@dataclass(frozen=True, slots=True)
class Asked:
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
class Moved:
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
class WentBack:
    """A rollback that somebody asked for (`serving.control.going_back`).

    `switched_at`: when it gave the traffic to a version that had to be started, None if it did not (yet).
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


@dataclass(frozen=True, slots=True)
class Entry:
    """All that is known of one release, and what that comes to."""

    id: str
    model: str
    version: int
    at: datetime
    status: Status
    why: str
    changed_at: datetime
    asked: Asked | None
    moved: Moved | None
    outcome: Outcome | None


def parse_asked(content: bytes) -> Asked:
    """Raises ValueError, KeyError or TypeError for what is no request."""
    saved = orjson.loads(content)
    request, approval = saved["request"], saved["spec"].get("approval")
    return Asked(
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


def parse_moved(content: bytes) -> Moved:
    """Raises ValueError, KeyError or TypeError for what is no rollout's state."""
    saved = orjson.loads(content)
    state, timeline = saved["state"], saved["timeline"]
    events = tuple((_time(e["at"]), e["kind"], e["detail"], float(e["candidate_weight"])) for e in timeline)
    return Moved(
        id=state["release_id"],
        model=state["service"],
        version=state["version"],
        previous_version=state["previous_version"],
        phase=state["phase"],
        paused=state.get("paused", ""),
        step=state["step"],
        steps=tuple(float(step["split"]["candidate"]) for step in state["plan"]["steps"]),
        started_at=_time(state["started_at"]),
        changed_at=events[-1][0] if events else _time(state["step_started_at"]),
        why=state["reason"],
        generation=state["generation"],
        strategy=state["plan"]["strategy"],
        holds=tuple(float(step["hold_seconds"]) for step in state["plan"]["steps"]),
        events=events,
        bundle_id=DeploymentId.parse(state["deployment_id"]).bundle_id,
    )


def parse_went_back(content: bytes) -> WentBack:
    """Raises ValueError, KeyError or TypeError for what is no rollback."""
    saved = orjson.loads(content)
    wish = saved["wish"]
    return WentBack(
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
    )


def parse_lock(content: bytes) -> LockState:
    """Raises ValueError, KeyError or TypeError for what is no lock."""
    saved = orjson.loads(content)
    holder, waiting = (saved[name] and _claim(saved[name]) for name in ("holder", "waiting"))
    return LockState(holder, waiting)


def entries(
    asked: Mapping[str, Asked],
    moved: Mapping[str, Moved],
    outcomes: Mapping[str, Outcome],
    lock: LockState,
    back: Iterable[WentBack] = (),
) -> tuple[Entry, ...]:
    """All releases of one model, the newest first."""
    found = {
        name: _entry(name, asked.get(name), moved.get(name), outcomes.get(name), lock)
        for name in asked.keys() | moved.keys()
    }
    for entry in _left(found.values(), back):
        found[entry.id] = entry
    return tuple(sorted(found.values(), key=lambda entry: (entry.at, entry.id), reverse=True))


def _left(found: Collection[Entry], back: Iterable[WentBack]) -> Iterator[Entry]:
    """Of each version that rollbacks left and did not return to, the newest release, as it stands now."""
    carried_out = [(one.switched_at, one) for one in back if one.switched_at]
    last: dict[int, tuple[datetime, WentBack]] = {}
    for at, one in sorted(carried_out, key=lambda each: each[0]):
        last |= {one.leaves: (at, one), one.returns: (at, one)}
    for version, (at, one) in last.items():
        of_version = [e for e in found if e.moved and e.version == version and e.moved.started_at < at]
        newest = max(
            of_version, key=lambda entry: entry.moved.started_at if entry.moved else at, default=None
        )
        if newest and newest.status is Status.PROMOTED and one.leaves == version:
            why = f"rolled back later by {one.by} to version {one.returns}: {one.reason}"
            yield replace(newest, status=Status.ROLLED_BACK, why=why, changed_at=at)


def version_in(release_id: str) -> int | None:
    """The version a release's id names; a rollback's names none."""
    found = _VERSION.search(release_id)
    return int(found.group(1)) if found else None


def _entry(
    name: str, asked: Asked | None, moved: Moved | None, outcome: Outcome | None, lock: LockState
) -> Entry:
    status, why = _standing(name, asked, moved, outcome, lock)
    known = moved or asked
    assert known is not None
    times = [asked and asked.at, moved and moved.changed_at]
    if outcome and moved is None:
        times.append(outcome.at)
    return Entry(
        id=name,
        model=known.model,
        version=known.version,
        at=asked.at if asked else known.started_at if isinstance(known, Moved) else known.at,
        status=status,
        why=why,
        changed_at=max(at for at in times if at),
        asked=asked,
        moved=moved,
        outcome=outcome,
    )


def _standing(
    name: str, asked: Asked | None, moved: Moved | None, outcome: Outcome | None, lock: LockState
) -> tuple[Status, str]:
    if moved:
        return _of_rollout(moved)
    if lock.holder and lock.holder.release_id == name:
        return Status.PREPARING, "building its candidates and checking them against the limits"
    if lock.waiting and lock.waiting.release_id == name:
        return Status.QUEUED, f"waits for {lock.holder.release_id if lock.holder else 'its turn'}"
    if outcome:
        return Status(outcome.status), outcome.reason
    return Status.UNKNOWN, "its files do not say how it stands"


def _of_rollout(moved: Moved) -> tuple[Status, str]:
    match moved.phase:
        case "progressing" if held := held_by_itself(moved.paused):
            return Status.FROZEN if held[0] == FREEZE else Status.PAUSED, held[1]
        case "progressing" if moved.paused:
            return Status.PAUSED, f"paused {moved.paused}"
        case "progressing":
            return Status.ROLLING_OUT, moved.why
        case "watching":
            return Status.WATCHING, moved.why
        case "done":
            return Status.PROMOTED, moved.why
    return Status.ROLLED_BACK, moved.why


def _claim(saved: Mapping[str, str]) -> Claim:
    return Claim(_time(saved["requested_at"]), saved["release_id"])


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)

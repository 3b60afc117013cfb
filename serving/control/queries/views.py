"""What people are shown, as plain values: the pages and the REST API say the same things."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from serving.control.blockers import Blocker
from serving.control.bundle_comparison import BundleComparison
from serving.control.queries.progress import PlanStep, RolloutEnd
from serving.control.queries.statuses import HealthNow, ReleaseStatus, RollbackStatus


@dataclass(frozen=True, slots=True)
class ServingVersion:
    """A version that gets traffic: how many percent, since when (None: before anything was recorded)."""

    version: int
    bundle_id: str
    weight: float
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """A release in a list. `weight` is the percent its version gets now, `step` counts from 1 (0: none yet).

    `seconds` is how long it took, or has taken so far; `why` how it ended or what it waits for. `plan` has
    what became of every step, empty before it had traffic.

    What it waits for is of a kind (`stands_still`: `serving.control.blockers.BlockerKind`, "" while it goes
    on by itself), and `way_out` is what a person can do about it.
    """

    id: str
    model: str
    version: int
    previous_version: int | None
    status: ReleaseStatus
    status_words: str
    asked_at: datetime
    by: str
    reason: str
    why: str
    weight: float
    step: int
    steps: tuple[float, ...]
    seconds: float
    changed_at: datetime
    dry_run: bool = False
    plan: tuple[PlanStep, ...] = ()
    stands_still: str = ""
    way_out: str = ""


@dataclass(frozen=True, slots=True)
class PendingApproval:
    """A question that people have to answer before a release gets traffic: whether this bundle may.

    `again` says why they are asked although they were asked before; empty if they were not.
    """

    release_id: str
    model: str
    version: int
    subject: str
    asked_at: datetime
    until: datetime | None
    who_may: tuple[str, ...]
    task_id: str
    bundle_id: str = ""
    again: str = ""


@dataclass(frozen=True, slots=True)
class RollbackRow:
    """A rollback that somebody asked for.

    `returned_at`: since when all requests go to the version `returns`, by the route; None while they do not.
    """

    id: str
    model: str
    leaves: int
    returns: int
    asked_at: datetime
    by: str
    reason: str
    state: RollbackStatus
    words: str
    returned_at: datetime | None
    dag_id: str
    run_id: str
    stands_still: str = ""
    way_out: str = ""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model in the overview. `queued` waits behind `active`; `last` is the newest that is over.

    `stands_still`: what keeps its releases and rollbacks from beginning or going on, beside what single
    releases wait for. `rollback`: the newest, while it is under way and some minutes after.
    """

    name: str
    description: str
    serving: tuple[ServingVersion, ...]
    health: HealthNow
    active: ReleaseRow | None
    queued: ReleaseRow | None
    approval: PendingApproval | None
    last: ReleaseRow | None
    releases: int
    can_return_to: int | None
    stands_still: tuple[Blocker, ...] = ()
    rollback: RollbackRow | None = None


@dataclass(frozen=True, slots=True)
class BlockerRow:
    """Something that does not go on by itself. `model` is empty where it keeps all models."""

    model: str
    version: int | None
    release_id: str | None
    kind: str
    words: str
    way_out: str


@dataclass(frozen=True, slots=True)
class Overview:
    """All models, those that need somebody first. The counts are of all, whatever `models` shows.

    `unreleased` have a release spec and no release yet: they are in no count.
    """

    models: tuple[ModelRow, ...]
    unreleased: tuple[ModelRow, ...]
    total: int
    matching: int
    page: int
    pages: int
    under_way: tuple[ReleaseRow, ...]
    approvals: tuple[PendingApproval, ...]
    serving: int
    unwell: int
    queued: int
    at: datetime


@dataclass(frozen=True, slots=True)
class ReleasePage:
    """One page of releases, the newest first."""

    releases: tuple[ReleaseRow, ...]
    matching: int
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One limit of a gate and what was measured."""

    name: str
    words: str
    passed: bool


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """A form of the model that was tried: precision x target. `status`: chosen, passed, missed or none."""

    precision: str
    target: str
    status: str
    reason: str
    accuracy: float | None
    accuracy_before: float | None
    p50_ms: float | None
    p99_ms: float | None
    size_mb: float | None
    checks: tuple[CheckRow, ...] = ()


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step of the release's run. `offset` and `share` (0-1) place it on the run's whole length."""

    name: str
    group: str
    state: str
    words: str
    started_at: datetime | None
    seconds: float | None
    offset: float
    share: float
    tries: int
    url: str
    parts: int = 1


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """Something that happened, for the timeline and the history. `who` is empty for Slipway itself."""

    at: datetime
    who: str
    action: str
    model: str
    version: int | None
    release_id: str | None
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RuleRow:
    """One rule of the verdict in words. `outcome`: pass, inconclusive, error or fail."""

    rule: str
    outcome: str
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class VerdictNow:
    """The controller's newest verdict on a rollout, or the one that ended it.

    `exposure`: how many requests the candidate got; None when the controller's records are gone.
    """

    outcome: str
    at: datetime
    rules: tuple[RuleRow, ...]
    exposure: int | None


@dataclass(frozen=True, slots=True)
class Link:
    """Where more is to be read. Inside Airflow (`is_airflow`) the link replaces its page."""

    name: str
    url: str
    is_airflow: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseView:
    """Everything about one release. `comparison`: with what served when its bundle was published.

    `ending`: what took it out of traffic, None if nothing did.
    """

    row: ReleaseRow
    holds: tuple[float, ...]
    strategy: str
    split_stable: float
    split_candidate: float
    verdict: VerdictNow | None
    candidates: tuple[CandidateRow, ...]
    steps: tuple[StepRow, ...]
    moments: tuple[HistoryEvent, ...]
    links: tuple[Link, ...]
    approvals: tuple[PendingApproval, ...]
    generation: int | None
    airflow_state: str = ""
    comparison: BundleComparison | None = None
    ending: RolloutEnd | None = None


@dataclass(frozen=True, slots=True)
class History:
    """One page of what happened in production, the newest first."""

    moments: tuple[HistoryEvent, ...]
    matching: int
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class ServingAt:
    """What served at a moment. `known_since`: nothing is recorded of before that."""

    at: datetime
    known_since: datetime | None
    models: tuple[ModelServing, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class ModelServing:
    """A model's versions at a moment, by weight, and since when it was so."""

    model: str
    serving: tuple[ServingVersion, ...]


def page_of(count: int, *, size: int, page: int) -> tuple[int, int]:
    """The page to show, within what there is, and how many there are (at least one)."""
    pages = max(1, -(-count // size))
    return min(max(page, 1), pages), pages

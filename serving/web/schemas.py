"""What the acting endpoints answer."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from serving.control.audit import AuditEntry
from serving.control.freezes import Frozen
from serving.control.queries.statuses import RollbackStatus
from serving.control.rollout.plan import RolloutState
from serving.web.access import Right
from serving.web.ports import StartedRun


class RunView(BaseModel):
    """An Airflow DAG run."""

    dag_id: str
    run_id: str
    url: str

    @classmethod
    def of(cls, started: StartedRun) -> RunView:
        return cls(dag_id=started.dag_id, run_id=started.run_id, url=started.url)


class AcceptedRelease(BaseModel):
    """A release that was asked for."""

    release_id: str
    model: str
    version: int
    run: RunView
    repeated: bool = Field(description="The same Idempotency-Key came before: this is that release.")
    stands_still: str = Field(
        "", description="Why it does not begin by itself, such as a DAG that is paused; empty: it does."
    )
    way_out: str = Field("", description="What a person can do about that.")


class StateView(BaseModel):
    """Where a release stands after the act."""

    release_id: str
    model: str
    version: int
    phase: str = Field(
        description="progressing, watching, done, rolled_back; `ended` if it never had traffic."
    )
    step: int
    candidate_weight: float
    paused: str = Field(description="Who paused it and why; empty: it is not.")
    hold_skipped: bool
    generation: int
    reason: str

    @classmethod
    def of(cls, state: RolloutState) -> StateView:
        return cls(
            release_id=state.release_id,
            model=state.service,
            version=state.version,
            phase=state.phase.value,
            step=state.step,
            candidate_weight=state.split.candidate,
            paused=state.paused,
            hold_skipped=state.hold_skipped,
            generation=state.generation,
            reason=state.reason,
        )


class ApprovalAnswer(BaseModel):
    """What an approver said."""

    release_id: str
    answer: str
    still_needed: int = Field(description="How many more people have to approve.")


class AcceptedRollback(BaseModel):
    """A rollback that was asked for. `at_once`: traffic is back already, and `run` is None.

    Otherwise `Location` leads to how far it has come.
    """

    model: str
    at_once: bool
    release_id: str | None = Field(description="The release that was rolled back at once.")
    run: RunView | None
    rollback_id: str | None = Field(default=None, description="Of one that is not done at once.")
    returns: int | None = Field(
        default=None, description="The version that all requests go, or are to go, to."
    )
    state: RollbackStatus = Field(description="How far it has come, by the route.")
    words: str = Field(description="The same in words.")
    returned_at: datetime | None = Field(
        default=None, description="Since when all requests go to that version."
    )
    stands_still: str = Field(
        default="", description="What keeps it, such as a DAG that is paused; empty: nothing."
    )
    way_out: str = Field(default="", description="What a person can do about that.")


class OverrideView(BaseModel):
    """Who let a release pass a freeze."""

    release_id: str
    by: str
    reason: str
    at: datetime


class PersonView(BaseModel):
    """Who asks, and what they may do with every model."""

    name: str
    rights: list[Right]


class EntryView(BaseModel):
    """One act of a person."""

    at: datetime
    who: str
    action: str
    model: str | None
    version: int | None
    release_id: str | None
    reason: str
    detail: dict[str, str]

    @classmethod
    def of(cls, entry: AuditEntry) -> EntryView:
        return cls(**{name: getattr(entry, name) for name in cls.model_fields})


class FreezeView(BaseModel):
    """A freeze in force."""

    id: str
    source: str = Field(description="`calendar`, `spec` or `person`; only a person's can be lifted.")
    model: str | None = Field(description="None: it holds every model.")
    reason: str
    by: str
    since: datetime | None
    until: datetime | None = Field(description="None: until somebody lifts it.")
    words: str

    @classmethod
    def of(cls, frozen: Frozen) -> FreezeView:
        fields = ("id", "source", "model", "reason", "by", "since", "until", "words")
        return cls(**{name: getattr(frozen, name) for name in fields})


class StepView(BaseModel):
    """One step of the rollout: the candidate's percent of the traffic, for so long at least."""

    weight: float
    hold_seconds: float


class ApprovalView(BaseModel):
    """Who would be asked before traffic moves."""

    required: int
    approvers: list[str]
    author: str = Field(
        description="Who trained the version, two if its run and its tag differ; none of them may approve it."
    )
    timeout_seconds: float


class AttemptView(BaseModel):
    """An earlier release of the same version."""

    release_id: str
    at: datetime
    by: str
    outcome: str = Field(description="`before traffic`, or the phase its rollout came to.")
    reason: str


class QueueView(BaseModel):
    """Where the release would stand among those of its model."""

    position: int = Field(description="0: its turn comes at once, 1: after the one under way.")
    under_way: str | None = Field(description="The release (or rollback) whose turn it is.")
    replaces: str | None = Field(description="The waiting release that it would supersede.")


class Preview(BaseModel):
    """What will run if the version is released now. Nothing has been started."""

    model: str
    version: int
    dag_id: str
    serves_now: int | None = Field(description="The version that has the traffic.")
    serves_already: bool
    strategy: str
    steps: list[StepView]
    watch_seconds: float
    precisions: list[str]
    targets: list[str]
    approval: ApprovalView | None
    queue: QueueView
    freezes: list[FreezeView]
    tried: list[AttemptView]
    warnings: list[str] = Field(description="What a person should know before they press the button.")
    digest: str = Field(description="Of the spec that would be followed.")

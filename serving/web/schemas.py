"""What people may write and name in a request, and what the acting endpoints answer.

Limits, which characters, and moments: one is as ISO 8601 writes it, in UTC where no zone is named.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from serving.control import reasons
from serving.control.audit import AuditEntry
from serving.control.freezes import Frozen
from serving.control.queries.statuses import RollbackStatus
from serving.control.rollout.plan import RolloutState
from serving.web.access import Right
from serving.web.ports import StartedRun

# Where the API is, below where the app is mounted.
API = "/api/v1"

MODEL = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}$"
RELEASE = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}-v[0-9]{1,9}-[0-9]{8}T[0-9]{6}Z(-[0-9]{1,4})?$"
ROLLBACK = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}-rollback-[0-9]{8}T[0-9]{6}Z(-[0-9]{1,4})?$"
VERSION = r"^([0-9]{1,9}|[A-Za-z_][A-Za-z0-9_\-]{0,63})$"
DIGEST = r"^sha256:[0-9a-f]{64}$"
# What a person is told who wrote something else.
DESCRIPTIONS = {
    MODEL: "a model's name has letters, digits, _ . and -, 100 at most, and begins with a letter or digit",
    RELEASE: "a release's id is <model>-v<version>-<time>, as in fraud-v3-20261121T201500Z",
    ROLLBACK: "a rollback's id is <model>-rollback-<time>, as in fraud-rollback-20261121T201500Z",
    VERSION: "a version is a number or an alias of letters, digits, _ and -",
    DIGEST: "a digest is sha256: and 64 hexadecimal digits, as the preview gives it",
    reasons.PATTERN: reasons.IN_WORDS,
}

_DATE_FIRST = re.compile(r"\d{4}-\d{2}-\d{2}")

ModelName = Annotated[str, Field(pattern=MODEL, description="The model's name in the registry.")]
ModelPath = Annotated[str, Path(pattern=MODEL, description="The model's name in the registry.")]
ReleasePath = Annotated[
    str,
    Path(
        pattern=RELEASE,
        description="The release's id: `<model>-v<version>-<time>`.",
        examples=["fraud-v3-20261121T201500Z"],
    ),
]
RollbackPath = Annotated[
    str,
    Path(
        pattern=ROLLBACK,
        description="The rollback's id: `<model>-rollback-<time>`.",
        examples=["fraud-rollback-20261121T201500Z"],
    ),
]
VersionName = Annotated[
    str, Field(pattern=VERSION, description="A version number, or an alias that points to one.")
]
Reason = Annotated[
    str,
    Field(
        pattern=reasons.PATTERN,
        min_length=1,
        max_length=reasons.LONGEST,
        description="Why. It is kept in the audit trail as it is; whoever shows it has to escape it.",
        examples=["better recall on small loans"],
    ),
]


class Body(BaseModel):
    """A request's body: nothing else may be in it."""

    model_config = ConfigDict(extra="forbid")


class ReasonBody(Body):
    """An act that needs only a reason."""

    reason: Reason


class ControlBody(ReasonBody):
    """An act on what the person looks at."""

    generation: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None,
        description="The generation of the release that the person saw. If another person acted on it since, "
        "the answer is 409 and says who did what. Left out: whatever stands now.",
    )


def in_utc(moment: datetime) -> datetime:
    """In UTC, which is also the zone of a time without one. Raises `ValueError` at the ends of time."""
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("there is no such moment in UTC") from None


def _as_written(text: object) -> object:
    # Pydantic takes a bare number for seconds or milliseconds since 1970: a slip would be a moment.
    if isinstance(text, str) and not _DATE_FIRST.match(text):
        raise ValueError("write a moment as 2026-11-21T12:00:00Z")
    return text


When = Annotated[datetime, BeforeValidator(_as_written), AfterValidator(in_utc)]


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

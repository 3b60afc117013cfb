"""What the ledger keeps: plain frozen values, each the row of one table (`serving.ledger.schema`).

A `Kept` row has a key and a generation and is replaced as a whole; an `Appended` row gets a number and is
never changed. What queries ask for are fields of their own; all else is in `document`, as JSON, which the
ledger keeps and does not understand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar
from uuid import uuid4

import orjson

from model_store.durable import canonical_json
from model_store.errors import Permanent

Document = Mapping[str, Any]

# PostgreSQL indexes no more than 2,704 bytes of a value, and a character takes up to four.
LONGEST_INDEXED = 500
_LARGEST = 2**63


class Unstorable(Permanent):
    """A value that one of the databases would refuse, or give back as another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`KEY` names the field that tells rows of a kind apart, `AT` the one that orders them.

    `KIND`: what the kind is called in requests to the controller and in messages, where that is not the name
    of the class without `Row`.
    """

    KEY: ClassVar[str]
    AT: ClassVar[str]
    KIND: ClassVar[str] = ""

    @property
    def key(self) -> str:
        return str(getattr(self, self.KEY))

    @classmethod
    def kind_name(cls) -> str:
        """`Release`. It stays, as an older process may ask for it."""
        return cls.KIND or cls.__name__.removesuffix("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept(Row):
    """`generation` grows by one with every save; 0 is of a row that is not in the ledger yet."""

    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended(Row):
    """`number` is given by the ledger; 0 is of a row that is not in it yet."""

    KEY: ClassVar[str] = "number"
    AT: ClassVar[str] = "at"

    number: int = 0


K = TypeVar("K", bound=Kept)
R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRecord(Kept):
    """What a release is about, and how it ended. `status` is empty until it has."""

    KIND: ClassVar[str] = "Release"
    KEY: ClassVar[str] = "id"
    AT: ClassVar[str] = "requested_at"

    id: str
    model: str
    version: int
    requested_at: datetime
    requested_by: str
    status: str = ""
    ended_at: datetime | None = None
    document: Document = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRow(Kept):
    """Where a release stands on its way to users. `document` is the rest of the rollout's state."""

    KEY: ClassVar[str] = "release_id"
    AT: ClassVar[str] = "started_at"

    release_id: str
    service: str
    version: int
    phase: str
    is_over: bool
    started_at: datetime
    changed_at: datetime
    document: Document = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRow(Kept):
    """What the gateway is told of a service. The generation is the route's revision.

    Every save leaves a `RouteChange`. `candidate_weight` in percent, the rest is stable's.
    """

    KEY: ClassVar[str] = "service"
    AT: ClassVar[str] = "at"

    service: str
    at: datetime
    stable_version: int | None = None
    stable_bundle_id: str | None = None
    candidate_version: int | None = None
    candidate_bundle_id: str | None = None
    candidate_weight: float = 0.0
    document: Document = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow(Kept):
    """Which run may release a version without being asked by a person; `run_id` is empty while none may.

    `id` is `<model>/v<version>`. `withdrawn`: how often a run did not get to begin; `asked_at`: when a run
    was last asked for.
    """

    KEY: ClassVar[str] = "id"
    AT: ClassVar[str] = "at"

    id: str
    model: str
    version: int
    run_id: str
    at: datetime
    withdrawn: int = 0
    asked_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRow(Kept):
    """A person's answer about the bytes of a bundle. `id` is `<release id>/<bundle id>/<account>`."""

    KEY: ClassVar[str] = "id"
    AT: ClassVar[str] = "at"

    id: str
    release_id: str
    bundle_id: str
    by: str
    approved: bool
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeRow(Kept):
    """A freeze that somebody asked for. `model` None: of all; `until` None: until somebody lifts it."""

    KEY: ClassVar[str] = "id"
    AT: ClassVar[str] = "since"

    id: str
    model: str | None
    by: str
    reason: str
    since: datetime
    until: datetime | None = None
    lifted_by: str = ""
    lifted_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideRow(Kept):
    """Who let one release pass all freezes, and why."""

    KEY: ClassVar[str] = "release_id"
    AT: ClassVar[str] = "at"

    release_id: str
    by: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LockRow(Kept):
    """The release lock: which release holds a service, and the one that waits in front of it."""

    KIND: ClassVar[str] = "Turn"
    KEY: ClassVar[str] = "service"
    AT: ClassVar[str] = "at"

    service: str
    at: datetime
    holder: str | None = None
    holder_at: datetime | None = None
    waiting: str | None = None
    waiting_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteRow(Kept):
    """Something that is so of a model until `ended_at`: that it is held, or why its alias starts nothing.

    `id` is `<model>/<kind>`.
    """

    KEY: ClassVar[str] = "id"
    AT: ClassVar[str] = "at"

    id: str
    model: str
    kind: str
    at: datetime
    ended_at: datetime | None = None
    document: Document = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow(Kept):
    """What a person or an alert wants done (rollback, pause, resume, skip ...).

    `status`: open, done, failed. `id` is the asker's: the same order sent twice is one.
    """

    KEY: ClassVar[str] = "id"
    AT: ClassVar[str] = "at"

    id: str
    service: str
    action: str
    by: str
    reason: str
    at: datetime
    status: str = "open"
    answer: str = ""
    answered_at: datetime | None = None
    document: Document = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRow(Kept):
    """A webhook's delivery that was taken, and what came of it. `id` is the sender's idempotency key."""

    KEY: ClassVar[str] = "id"
    AT: ClassVar[str] = "at"

    id: str
    source: str
    at: datetime
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRow(Kept):
    """A message to one receiver. `status`: waiting, sent, given_up. `id` is `<message id>.<receiver>`."""

    KIND: ClassVar[str] = "Letter"
    KEY: ClassVar[str] = "id"
    AT: ClassVar[str] = "at"

    id: str
    model: str
    at: datetime
    next_at: datetime
    status: str = "waiting"
    tries: int = 0
    claimed_until: datetime | None = None
    document: Document = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow(Appended):
    """Something that happened to a rollout, for people."""

    release_id: str
    at: datetime
    kind: str
    detail: str
    candidate_weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteChangeRow(Appended):
    """How a service was routed from `at` until its next change."""

    service: str
    revision: int
    at: datetime
    stable_version: int | None
    stable_bundle_id: str | None
    candidate_version: int | None
    candidate_bundle_id: str | None
    candidate_weight: float

    @classmethod
    def of(cls, route: RouteRow) -> RouteChangeRow:
        """What a route that was just saved leaves in the history."""
        shared = {each.name for each in fields(cls)} & {each.name for each in fields(route)}
        return cls(revision=route.generation, **{name: getattr(route, name) for name in shared})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseChangeRow(Appended):
    """A release or a request was saved, so that whoever knows them all asks only for those again.

    `id` is the row's. Of two that are saved at once the later number may be seen first.
    """

    kind: str
    id: str
    model: str
    at: datetime

    @classmethod
    def of(cls, row: ReleaseRecord | RequestRow) -> ReleaseChangeRow:
        """What a row that was just saved leaves. `at` is when it was asked for."""
        if isinstance(row, ReleaseRecord):
            return cls(kind=row.kind_name(), id=row.id, model=row.model, at=row.requested_at)
        return cls(kind=row.kind_name(), id=row.id, model=row.service, at=row.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationRow(Appended):
    """What was seen of a rollout in one look. `place` numbers what is judged apart."""

    release_id: str
    at: datetime
    place: int
    document: Document


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow(Appended):
    """One act in the audit trail. An entry whose `id` is there already is not written again.

    `hash` is the ledger's: it follows from the entry and the one before (`serving.ledger.chain`).
    """

    KIND: ClassVar[str] = "Entry"

    id: str = field(default_factory=lambda: uuid4().hex)
    at: datetime
    who: str
    action: str
    model: str | None = None
    version: int | None = None
    release_id: str | None = None
    reason: str = ""
    document: Document = field(default_factory=dict)
    hash: str = ""


# In the order in which a change writes them: the same everywhere, so that two never wait for each other. The
# audit trail, which all share, comes last and is held for the shortest time.
KEPT: tuple[type[Kept], ...] = (
    ReleaseRecord,
    LockRow,
    RolloutRow,
    RouteRow,
    AttemptRow,
    ApprovalRow,
    FreezeRow,
    OverrideRow,
    NoteRow,
    RequestRow,
    DeliveryRow,
    MessageRow,
)
APPENDED: tuple[type[Appended], ...] = (EventRow, RouteChangeRow, ReleaseChangeRow, ObservationRow, AuditRow)
KINDS: tuple[type[Row], ...] = (*KEPT, *APPENDED)
_RANK = {kind: place for place, kind in enumerate(KINDS)}
# Text for people, as long as they like; all other text is searched for.
WORDS = ("reason", "words", "answer", "detail")


def saved(row: K) -> K:
    """The row as the ledger has it once it is written: its next generation."""
    return replace(row, generation=row.generation + 1)


def normalised(row: R) -> R:
    """The row as it will be read back, whichever database keeps it. Raises `Unstorable`.

    Times are in UTC, documents what JSON makes of them (no tuples).
    """
    return replace(row, **{each.name: _storable(each.name, getattr(row, each.name)) for each in fields(row)})


def in_turn(row: Row) -> tuple[int, str]:
    """Where in a change the row is written: by kind and key; what is appended, in the order given."""
    return _RANK[type(row)], row.key if isinstance(row, Kept) else ""


def as_text(name: str, value: Document) -> str:
    """The document in the one way that it is written. Raises `Unstorable`."""
    try:
        content = canonical_json(value)
        orjson.loads(content)
    except (ValueError, TypeError) as problem:
        raise Unstorable(f"{name} is no JSON: {problem}", remedy="send what JSON has") from problem
    return content.decode()


def searched(kind: type[Row]) -> list[str]:
    """What rows of this kind can be found by."""
    return [each.name for each in fields(kind) if each.name not in ("document", "hash")]


def _storable(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return _text(name, value)
    if isinstance(value, datetime):
        return _time(name, value)
    if isinstance(value, Mapping):
        return _document(name, value)
    if isinstance(value, float) and not math.isfinite(value):
        raise Unstorable(f"{name} is {value}", remedy="leave it out: there is no such number in JSON")
    if isinstance(value, int) and abs(value) >= _LARGEST:
        raise Unstorable(f"{name} is {value}, more than 64 bits", remedy="send a smaller number")
    return value


def _text(name: str, value: str) -> str:
    if "\0" in value or not _is_unicode(value):
        raise Unstorable(
            f"{name} has characters that are no text: {value[:40]!r}", remedy="send text (UTF-8)"
        )
    if name not in WORDS and len(value) > LONGEST_INDEXED:
        raise Unstorable(
            f"{name} has {len(value)} characters, and may have {LONGEST_INDEXED}: {value[:40]!r}...",
            remedy="send a shorter one",
        )
    return value


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _time(name: str, value: datetime) -> datetime:
    if value.tzinfo is None:
        raise Unstorable(f"{name} is {value}, and does not say of which time zone", remedy="send UTC")
    return value.astimezone(UTC)


def _document(name: str, value: Document) -> Document:
    """Through JSON and back, so that every ledger gives back the same."""
    read: Document = orjson.loads(as_text(name, value))
    return read

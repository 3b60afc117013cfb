"""The ledger's tables, as they are now. How they became so is in `serving.ledger.migrations`.

A table's columns are its row's fields (`serving.ledger.rows`). Times are text in SQLite, in an order that is
time's, and `timestamptz` in PostgreSQL. Documents are text in both: `jsonb` gives some numbers back as
others.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION, TIMESTAMP
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from serving.ledger import rows
from serving.ledger.rows import Row

METADATA = MetaData()
_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"

# SQLite numbers rows by itself only where the type is this one.
NUMBER = BigInteger().with_variant(Integer, "sqlite")
SHARE = Float().with_variant(DOUBLE_PRECISION(), "postgresql")


class UtcTime(TypeDecorator[datetime]):
    """A moment, to the microsecond, in UTC."""

    impl = String(27)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        kind: TypeEngine[Any] = (
            TIMESTAMP(timezone=True) if dialect.name == "postgresql" else String(27)  # like 2026-11-30T...Z
        )
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(UTC).strftime(_FORMAT)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if isinstance(value, datetime) else datetime.fromisoformat(value)


def _name(name: str = "id", *, key: bool = False, null: bool = False) -> Column[Any]:
    return Column(name, String(rows.LONGEST_INDEXED), primary_key=key, nullable=null)


def _whole(name: str, *, null: bool = False) -> Column[Any]:
    return Column(name, BigInteger, nullable=null)


def _words(name: str) -> Column[Any]:
    return Column(name, Text, nullable=False)


def _time(name: str = "at", *, null: bool = False) -> Column[Any]:
    return Column(name, UtcTime, nullable=null)


def _kept(name: str, *columns: Any) -> Table:
    return Table(name, METADATA, *columns, _whole("generation"))


def _appended(name: str, *columns: Any) -> Table:
    # A number is not given twice, also when the last rows were pruned.
    return Table(
        name,
        METADATA,
        Column("number", NUMBER, primary_key=True, autoincrement=True),
        *columns,
        sqlite_autoincrement=True,
    )


def _arms() -> list[Column[Any]]:
    return [
        _whole("stable_version", null=True),
        _name("stable_bundle_id", null=True),
        _whole("candidate_version", null=True),
        _name("candidate_bundle_id", null=True),
        Column("candidate_weight", SHARE, nullable=False),
    ]


RELEASES = _kept(
    "releases",
    _name(key=True),
    _name("model"),
    _whole("version"),
    _time("requested_at"),
    _name("requested_by"),
    _name("status"),
    _time("ended_at", null=True),
    _words("document"),
    Index("releases_of_model", "model", "requested_at"),
    Index("releases_by_time", "requested_at"),
)
TURNS = _kept(
    "turns",
    _name("service", key=True),
    _time(),
    _name("holder", null=True),
    _time("holder_at", null=True),
    _name("waiting", null=True),
    _time("waiting_at", null=True),
)
ROLLOUTS = _kept(
    "rollouts",
    _name("release_id", key=True),
    _name("service"),
    _whole("version"),
    _name("phase"),
    Column("is_over", Boolean, nullable=False),
    _time("started_at"),
    _time("changed_at"),
    _words("document"),
    Index("rollouts_of_service", "service", "started_at"),
    Index("rollouts_under_way", "is_over", "started_at"),
)
ROUTES = _kept("routes", _name("service", key=True), _time(), *_arms(), _words("document"))
ATTEMPTS = _kept(
    "attempts",
    _name(key=True),
    _name("model"),
    _whole("version"),
    _name("run_id"),
    _time(),
    _whole("withdrawn"),
    _time("asked_at", null=True),
    Index("attempts_of_model", "model"),
)
APPROVALS = _kept(
    "approvals",
    _name(key=True),
    _name("release_id"),
    _name("bundle_id"),
    _name("by"),
    Column("approved", Boolean, nullable=False),
    _words("reason"),
    _time(),
    Index("approvals_of_release", "release_id"),
)
FREEZES = _kept(
    "freezes",
    _name(key=True),
    _name("model", null=True),
    _name("by"),
    _words("reason"),
    _time("since"),
    _time("until", null=True),
    _name("lifted_by"),
    _time("lifted_at", null=True),
)
OVERRIDES = _kept("overrides", _name("release_id", key=True), _name("by"), _words("reason"), _time())
NOTES = _kept(
    "notes",
    _name(key=True),
    _name("model"),
    _name("kind"),
    _time(),
    _time("ended_at", null=True),
    _words("document"),
    Index("notes_of_model", "model"),
)
REQUESTS = _kept(
    "requests",
    _name(key=True),
    _name("service"),
    _name("action"),
    _name("by"),
    _words("reason"),
    _time(),
    _name("status"),
    _words("answer"),
    _time("answered_at", null=True),
    _words("document"),
    Index("requests_by_status", "status", "at"),
    Index("requests_of_service", "service", "at"),
)
DELIVERIES = _kept(
    "deliveries",
    _name(key=True),
    _name("source"),
    _time(),
    _words("words"),
    Index("deliveries_by_time", "at"),
)
LETTERS = _kept(
    "outbox",
    _name(key=True),
    _name("model"),
    _time(),
    _time("next_at"),
    _name("status"),
    _whole("tries"),
    _time("claimed_until", null=True),
    _words("document"),
    Index("outbox_due", "status", "next_at"),
)
EVENTS = _appended(
    "events",
    _name("release_id"),
    _time(),
    _name("kind"),
    _words("detail"),
    Column("candidate_weight", SHARE, nullable=False),
    Index("events_of_release", "release_id", "number"),
)
ROUTE_CHANGES = _appended(
    "route_history",
    _name("service"),
    _whole("revision"),
    _time(),
    *_arms(),
    Index("route_history_of_service", "service", "revision"),
    Index("route_history_by_time", "at"),
)
RELEASE_CHANGES = _appended("release_changes", _name("kind"), _name("id"), _name("model"), _time())
OBSERVATIONS = _appended(
    "observations",
    _name("release_id"),
    _time(),
    _whole("place"),
    _words("document"),
    Index("observations_of_release", "release_id", "number"),
)
AUDIT = Table(
    "audit",
    METADATA,
    Column("number", NUMBER, primary_key=True, autoincrement=False),
    _name("id"),
    _time(),
    _name("who"),
    _name("action"),
    _name("model", null=True),
    _whole("version", null=True),
    _name("release_id", null=True),
    _words("reason"),
    _words("document"),
    Column("hash", String(64), nullable=False),
    UniqueConstraint("id", name="audit_once"),
    Index("audit_by_time", "at"),
    Index("audit_of_model", "model", "number"),
    Index("audit_of_release", "release_id"),
)

# One row: the chain's last link.
AUDIT_HEAD = Table(
    "audit_head",
    METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    _whole("number"),
    Column("hash", String(64), nullable=False),
)
LEASES = Table(
    "leases",
    METADATA,
    _name("name", key=True),
    _name("holder"),
    _whole("token"),
    _time("renewed_at"),
    Column("seconds", SHARE, nullable=False),
)
ADOPTED = Table(
    "adopted",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("digest", String(100), nullable=False),
    _time(),
)

TABLES: dict[type[Row], Table] = {
    rows.ReleaseRecord: RELEASES,
    rows.LockRow: TURNS,
    rows.RolloutRow: ROLLOUTS,
    rows.RouteRow: ROUTES,
    rows.AttemptRow: ATTEMPTS,
    rows.ApprovalRow: APPROVALS,
    rows.FreezeRow: FREEZES,
    rows.OverrideRow: OVERRIDES,
    rows.NoteRow: NOTES,
    rows.RequestRow: REQUESTS,
    rows.DeliveryRow: DELIVERIES,
    rows.MessageRow: LETTERS,
    rows.EventRow: EVENTS,
    rows.RouteChangeRow: ROUTE_CHANGES,
    rows.ReleaseChangeRow: RELEASE_CHANGES,
    rows.ObservationRow: OBSERVATIONS,
    rows.AuditRow: AUDIT,
}

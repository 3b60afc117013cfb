"""The first form: everything that was files before."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

from serving.ledger.migrations import refuse_downgrade

revision = "0001"
down_revision = None

TIME = sa.String(27).with_variant(TIMESTAMP(timezone=True), "postgresql")
NAME = sa.String(500)
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
SHARE = sa.Float().with_variant(sa.DOUBLE_PRECISION(), "postgresql")

# Whoever can write to the database can drop these; a mistake of ours cannot.
_APPEND_ONLY = "the audit trail is only appended to"
_SQLITE = """
CREATE TRIGGER audit_{act} BEFORE {act} ON audit BEGIN SELECT RAISE(ABORT, '{words}'); END
"""
_POSTGRESQL = """
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '{words}'; END $$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()
"""


def upgrade() -> None:
    _make_tables()
    head = sa.table("audit_head", sa.column("id"), sa.column("number"), sa.column("hash"))
    op.bulk_insert(head, [{"id": 1, "number": 0, "hash": "0" * 64}])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_POSTGRESQL.format(words=_APPEND_ONLY))
    else:
        for act in ("UPDATE", "DELETE"):
            op.execute(_SQLITE.format(act=act, words=_APPEND_ONLY))


def downgrade() -> None:
    refuse_downgrade(revision)


def _make_tables() -> None:
    op.create_table(
        "adopted",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=100), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "approvals",
        sa.Column("id", NAME, nullable=False),
        sa.Column("release_id", NAME, nullable=False),
        sa.Column("bundle_id", NAME, nullable=False),
        sa.Column("by", NAME, nullable=False),
        sa.Column("approved", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("approvals_of_release", "approvals", ["release_id"])
    op.create_table(
        "attempts",
        sa.Column("id", NAME, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("run_id", NAME, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("withdrawn", sa.BigInteger(), nullable=False),
        sa.Column("asked_at", TIME, nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("attempts_of_model", "attempts", ["model"])
    op.create_table(
        "audit",
        sa.Column("number", NUMBER, autoincrement=False, nullable=False),
        sa.Column("id", NAME, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("who", NAME, nullable=False),
        sa.Column("action", NAME, nullable=False),
        sa.Column("model", NAME, nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=True),
        sa.Column("release_id", NAME, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("id", name="audit_once"),
    )
    op.create_index("audit_by_time", "audit", ["at"])
    op.create_index("audit_of_model", "audit", ["model", "number"])
    op.create_index("audit_of_release", "audit", ["release_id"])
    op.create_table(
        "audit_head",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", NAME, nullable=False),
        sa.Column("source", NAME, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("deliveries_by_time", "deliveries", ["at"])
    op.create_table(
        "events",
        sa.Column("number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("release_id", NAME, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("candidate_weight", SHARE, nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sqlite_autoincrement=True,
    )
    op.create_index("events_of_release", "events", ["release_id", "number"])
    op.create_table(
        "freezes",
        sa.Column("id", NAME, nullable=False),
        sa.Column("model", NAME, nullable=True),
        sa.Column("by", NAME, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("until", TIME, nullable=True),
        sa.Column("lifted_by", NAME, nullable=False),
        sa.Column("lifted_at", TIME, nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "leases",
        sa.Column("name", NAME, nullable=False),
        sa.Column("holder", NAME, nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("renewed_at", TIME, nullable=False),
        sa.Column("seconds", SHARE, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "notes",
        sa.Column("id", NAME, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("notes_of_model", "notes", ["model"])
    op.create_table(
        "observations",
        sa.Column("number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("release_id", NAME, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sqlite_autoincrement=True,
    )
    op.create_index("observations_of_release", "observations", ["release_id", "number"])
    op.create_table(
        "outbox",
        sa.Column("id", NAME, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("next_at", TIME, nullable=False),
        sa.Column("status", NAME, nullable=False),
        sa.Column("tries", sa.BigInteger(), nullable=False),
        sa.Column("claimed_until", TIME, nullable=True),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("outbox_due", "outbox", ["status", "next_at"])
    op.create_table(
        "overrides",
        sa.Column("release_id", NAME, nullable=False),
        sa.Column("by", NAME, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("release_id"),
    )
    op.create_table(
        "releases",
        sa.Column("id", NAME, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("requested_at", TIME, nullable=False),
        sa.Column("requested_by", NAME, nullable=False),
        sa.Column("status", NAME, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("releases_by_time", "releases", ["requested_at"])
    op.create_index("releases_of_model", "releases", ["model", "requested_at"])
    op.create_table(
        "requests",
        sa.Column("id", NAME, nullable=False),
        sa.Column("service", NAME, nullable=False),
        sa.Column("action", NAME, nullable=False),
        sa.Column("by", NAME, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("status", NAME, nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("answered_at", TIME, nullable=True),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("requests_by_status", "requests", ["status", "at"])
    op.create_index("requests_of_service", "requests", ["service", "at"])
    op.create_table(
        "rollouts",
        sa.Column("release_id", NAME, nullable=False),
        sa.Column("service", NAME, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("phase", NAME, nullable=False),
        sa.Column("is_over", sa.Boolean(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("changed_at", TIME, nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("release_id"),
    )
    op.create_index("rollouts_of_service", "rollouts", ["service", "started_at"])
    op.create_index("rollouts_under_way", "rollouts", ["is_over", "started_at"])
    op.create_table(
        "route_history",
        sa.Column("number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("service", NAME, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("stable_version", sa.BigInteger(), nullable=True),
        sa.Column("stable_bundle_id", NAME, nullable=True),
        sa.Column("candidate_version", sa.BigInteger(), nullable=True),
        sa.Column("candidate_bundle_id", NAME, nullable=True),
        sa.Column("candidate_weight", SHARE, nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sqlite_autoincrement=True,
    )
    op.create_index("route_history_by_time", "route_history", ["at"])
    op.create_index("route_history_of_service", "route_history", ["service", "revision"])
    op.create_table(
        "routes",
        sa.Column("service", NAME, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("stable_version", sa.BigInteger(), nullable=True),
        sa.Column("stable_bundle_id", NAME, nullable=True),
        sa.Column("candidate_version", sa.BigInteger(), nullable=True),
        sa.Column("candidate_bundle_id", NAME, nullable=True),
        sa.Column("candidate_weight", SHARE, nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("service"),
    )
    op.create_table(
        "turns",
        sa.Column("service", NAME, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("holder", NAME, nullable=True),
        sa.Column("holder_at", TIME, nullable=True),
        sa.Column("waiting", NAME, nullable=True),
        sa.Column("waiting_at", TIME, nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("service"),
    )

"""Releases and rollbacks that change leave a row, by which those who know them all learn of it."""

import sqlalchemy as sa
from alembic import op

from serving.ledger.migrations import refuse_downgrade
from serving.ledger.migrations.versions.schema_0001 import NAME, NUMBER, TIME

revision = "0002"
down_revision = "0001"

# Those that are there already count as changed, once.
_THERE = """
INSERT INTO release_changes (kind, id, model, at) SELECT 'Release', id, model, requested_at FROM releases
UNION ALL SELECT 'Request', id, service, at FROM requests
"""


def upgrade() -> None:
    op.create_table(
        "release_changes",
        sa.Column("number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("id", NAME, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sqlite_autoincrement=True,
    )
    op.execute(_THERE)


def downgrade() -> None:
    refuse_downgrade(revision)

"""${message}"""

from alembic import op

from serving.ledger.migrations.going_back import refuse

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    refuse(revision)

"""Run by Alembic: applies the versions beside it on the transaction that `opening` has begun."""

from alembic import context

from serving.ledger.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()

"""Run by Alembic: applies the versions beside it on the transaction that `opening` has begun."""

from alembic import context

from serving.ledger.schema import METADATA


def run() -> None:
    """Needs Alembic's surroundings, which only it gives."""
    context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
    context.run_migrations()


# What Alembic names this file; whoever else imports it wants nothing done.
if __name__ == "env_py":
    run()

"""How the tables became what they are. A new version: a file in `versions`, its name in `VERSIONS`, and a
test from the version before (tests/unit/serving/ledger/test_migrations.py).
"""

from __future__ import annotations

from typing import NoReturn

from model_store.errors import Permanent

# Which forms of the tables this Slipway can read, oldest first: one for each migration.
VERSIONS = ("0001", "0002")
NEWEST = VERSIONS[-1]


def refuse_downgrade(version: str) -> NoReturn:
    """For every version's `downgrade`: what the newer form has would be lost without a word."""
    raise Permanent(
        f"the ledger does not go back from version {version}",
        remedy="restore the backup that was made before the upgrade (docs/ledger.md)",
    )

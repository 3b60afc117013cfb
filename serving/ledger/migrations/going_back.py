"""Tables do not go back to an older form: what the newer one has would be lost without a word."""

from __future__ import annotations

from typing import NoReturn

from model_store.errors import Permanent


def refuse(version: str) -> NoReturn:
    """For every version's `downgrade`."""
    raise Permanent(
        f"the ledger does not go back from version {version}",
        remedy="restore the backup that was made before the upgrade (docs/ledger.md)",
    )

"""There is no controller here to be asked for the ledger's rows."""

from __future__ import annotations

import pytest

from tests.ledgers import ledger_in_memory

__all__ = ["ledger_in_memory"]


@pytest.fixture(autouse=True)
def _rows_in_memory(ledger_in_memory: None) -> None:
    """For every test of this folder."""

"""Ledgers of installations in tests that have no controller: one in memory for each home."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import composition
from serving.home import Home
from serving.ledger.memory import MemoryLedger

_LEDGERS: dict[Path, MemoryLedger] = {}


def ledger_of(home: Home) -> MemoryLedger:
    """The same for whoever asks for this home."""
    return _LEDGERS.setdefault(home.root, MemoryLedger())


@pytest.fixture
def ledger_in_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `composition.wire` puts in place of asking the controller."""
    monkeypatch.setattr(composition, "rows_of", ledger_of)
    yield
    _LEDGERS.clear()

"""Ledgers of installations in tests that have no controller: one in memory for each home."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import composition
from serving.gateway.router.kept import LedgerRouter
from serving.gateway.router.memory import MemoryRouter
from serving.home import Home
from serving.ledger.memory import MemoryLedger
from serving.types import Route

_LEDGERS: dict[Path, MemoryLedger] = {}


def ledger_of(home: Home) -> MemoryLedger:
    """The same for whoever asks for this home."""
    return _LEDGERS.setdefault(home.root, MemoryLedger())


class FreshRoutes(LedgerRouter):
    """Routes of a ledger that others write: looked at anew each time, told to nobody."""

    def __init__(self, home: Home) -> None:
        super().__init__(ledger_of(home), MemoryRouter())

    def services(self) -> list[str]:
        self.refresh()
        return super().services()

    def read(self, service: str) -> Route:
        self.refresh()
        return super().read(service)


@pytest.fixture
def ledger_in_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `composition.wire` puts in place of asking the controller."""
    monkeypatch.setattr(composition, "rows_of", ledger_of)
    monkeypatch.setattr(composition, "router_of", FreshRoutes)
    yield
    _LEDGERS.clear()

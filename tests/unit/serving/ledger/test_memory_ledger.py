from __future__ import annotations

import pytest

from serving.ledger.memory import MemoryLedger
from tests.contract.ledger_contract import LedgerContract, Ledgers


class TestMemoryLedger(LedgerContract):
    @pytest.fixture
    def ledgers(self) -> Ledgers:
        return lambda clock: MemoryLedger(now=clock)

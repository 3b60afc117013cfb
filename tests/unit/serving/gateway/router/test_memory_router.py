from __future__ import annotations

import pytest

from serving.gateway.router.memory import MemoryRouter
from tests.contract.router_contract import RouterContract


class TestMemoryRouter(RouterContract):
    @pytest.fixture
    def router(self) -> MemoryRouter:
        return MemoryRouter()

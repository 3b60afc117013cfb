"""What every platform promises, on a real cluster."""

from __future__ import annotations

import pytest

from tests.contract.platform_contract import PlatformContract

pytestmark = pytest.mark.kubernetes


class TestKubernetesPlatform(PlatformContract):
    pass

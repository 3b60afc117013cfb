from __future__ import annotations

from pathlib import Path

import pytest

from model_store.types import Bundle, GateReport, ModelRef
from serving.platforms.memory import MemoryPlatform
from tests.contract.platform_contract import Bundles, PlatformContract, applied
from tests.moving_platform import MovingPlatform


def bundle_of(service: str, version: int) -> Bundle:
    return Bundle(f"{version:024x}", ModelRef(service, version), (), GateReport("", ()), Path())


BROKEN = bundle_of("broken", 7)


@pytest.fixture
def bundles() -> Bundles:
    return bundle_of


@pytest.fixture
def unservable() -> Bundle:
    return BROKEN


class TestMemoryPlatform(PlatformContract):
    @pytest.fixture
    def platform(self) -> MemoryPlatform:
        platform = MemoryPlatform()
        platform.fail(BROKEN.id, "ends at start: not a bundle manifest")
        return platform


class TestPodsThatComeLateMoveAndAreLost(PlatformContract):
    @pytest.fixture(params=[(0, 0), (3, 0), (3, 2)], ids=["at once", "late", "late and restless"])
    def platform(self, request: pytest.FixtureRequest) -> MovingPlatform:
        platform = MovingPlatform(*request.param)
        platform.refuse(BROKEN.id, "CrashLoopBackOff: not a bundle manifest")
        return platform


def test_a_bundle_that_is_held_back_is_not_ready_until_released() -> None:
    platform, bundle = MemoryPlatform(), bundle_of("m", 1)
    platform.hold_back(bundle.id)
    ref = applied(platform, bundle)
    assert not platform.status(ref).is_ready
    platform.release(bundle.id)
    assert platform.status(ref).is_ready

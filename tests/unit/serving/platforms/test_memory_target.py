from __future__ import annotations

from pathlib import Path

import pytest

from model_store.types import Bundle, GateReport, ModelRef
from serving.platforms.memory import MemoryTarget
from serving.types import Slot
from tests.contract.target_contract import Bundles, TargetContract


def bundle_of(service: str, version: int) -> Bundle:
    return Bundle(f"{version:024x}", ModelRef(service, version), (), GateReport("", ()), Path())


@pytest.fixture
def target() -> MemoryTarget:
    return MemoryTarget()


@pytest.fixture
def bundles() -> Bundles:
    return bundle_of


class TestMemoryTarget(TargetContract):
    pass


def test_a_bundle_that_is_held_back_is_not_ready_until_released(target: MemoryTarget) -> None:
    target.hold_back(bundle_of("m", 1).id)
    deployment = target.deploy(bundle_of("m", 1), Slot.BLUE, replicas=1)
    assert not target.is_ready(deployment)
    target.release(bundle_of("m", 1).id)
    assert target.is_ready(deployment)

"""A real Envoy of each test's own, and pods behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small_models import Credit, make_credit
from tests.unit.serving.gateway_process import Gateway, gateway_running
from tests.unit.serving.upstream import Pods, pods_running


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with gateway_running(tmp_path) as running:
        yield running


@pytest.fixture
def pods() -> Iterator[Pods]:
    with pods_running() as running:
        yield running


@pytest.fixture(scope="session")
def credit(tmp_path_factory: pytest.TempPathFactory) -> Credit:
    return make_credit(tmp_path_factory.mktemp("credit"))

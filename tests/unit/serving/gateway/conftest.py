"""A real Envoy for the tests of a module, and pods behind it for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.serving.gateway_process import Gateway, gateway_running
from tests.unit.serving.upstream import Pods, pods_running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway_running(tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture
def pods() -> Iterator[Pods]:
    with pods_running() as running:
        yield running

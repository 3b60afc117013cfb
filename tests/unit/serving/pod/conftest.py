"""Pods shared by the tests of a module: starting one takes a tenth of a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc

from tests.bundles import make_bundle, mlp
from tests.pods import RunningPod, running_pod


@pytest.fixture(scope="session")
def mlp_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """credit_risk v1: FP32 [-1, 4] to label and probabilities [-1, 2]."""
    return make_bundle(tmp_path_factory.mktemp("bundles"), mlp())


@pytest.fixture(scope="session")
def pod(mlp_bundle: Path) -> Iterator[RunningPod]:
    with running_pod(mlp_bundle, slot="blue", max_body_bytes=1024 * 1024) as running:
        yield running


@pytest.fixture(scope="module")
def stub(pod: RunningPod) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{pod.port}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)

"""grpc.health.v1: what it says follows the pod, and nobody who watches it keeps the pod from ending."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving.pod.grpc.messages import HEALTH, message
from tests.bundles import make_bundle, mlp
from tests.pods import RunningPod, running_pod

SERVING, NOT_SERVING = 1, 2


@pytest.fixture
def own_pod(tmp_path: Path) -> Iterator[RunningPod]:
    with running_pod(make_bundle(tmp_path, mlp())) as running:
        yield running


@pytest.fixture
def channel(own_pod: RunningPod) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{own_pod.port}") as found:
        yield found


def watch(channel: grpc.Channel, service: str) -> Iterator[int]:
    response = message("HealthCheckResponse", HEALTH)
    call = channel.unary_stream(f"/{HEALTH}.Health/Watch", response_deserializer=response.FromString)
    asked = message("HealthCheckRequest", HEALTH)(service=service).SerializeToString()
    return (found.status for found in call(asked, timeout=30))


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", "credit_risk"])
def test_whoever_watches_is_told_of_every_change(
    own_pod: RunningPod, channel: grpc.Channel, service: str
) -> None:
    seen = watch(channel, service)
    assert next(seen) == SERVING
    own_pod.management.post("/v2/repository/models/credit_risk/unload").raise_for_status()
    assert next(seen) == NOT_SERVING
    own_pod.management.post("/v2/repository/models/credit_risk/load").raise_for_status()
    assert next(seen) == SERVING


def test_a_pod_does_not_wait_for_whoever_watches_it(own_pod: RunningPod, channel: grpc.Channel) -> None:
    seen = watch(channel, "")
    assert next(seen) == SERVING
    # Twenty seconds is what it would wait for a call in flight.
    own_pod.stop()
    with pytest.raises(grpc.RpcError) as ended:
        next(seen)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_watcher_that_is_gone_is_forgotten(own_pod: RunningPod, channel: grpc.Channel) -> None:
    seen = watch(channel, "")
    next(seen)
    channel.close()
    deadline = time.monotonic() + 10
    while streams(own_pod):
        assert time.monotonic() < deadline, "its stream is still there"
        time.sleep(0.05)


def streams(pod: RunningPod) -> list[Any]:
    return [each for connection in pod.pod.front._connections for each in getattr(connection, "_streams", ())]


def test_messages_that_are_none_are_refused(channel: grpc.Channel) -> None:
    for method in (f"/{HEALTH}.Health/Check", f"/{HEALTH}.Health/Watch"):
        with pytest.raises(grpc.RpcError) as refused:
            list(channel.unary_stream(method)(b"\xff\xff", timeout=5))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT

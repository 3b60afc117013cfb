"""What becomes of large requests at the gateway: asked once, and nobody's failure. Real Envoy and pods."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from serving.metrics.envoy import EnvoyAdmin
from serving.types import Deployment, DeploymentRef, Endpoint, RouteSettings, Slot, TrafficSplit
from tests.bundles import make_bundle, mlp
from tests.pods import RunningPod, running_pod
from tests.unit.serving.gateway_process import Gateway

NAME, MOST, ASKED = "size", 5000, 12
SERVING = {"max_rows": MOST, "stochastic": True, "timeout_ms": 1000}


def arm(version: int, pod: RunningPod, slot: Slot) -> Deployment:
    endpoint = Endpoint("127.0.0.1", pod.port)
    return Deployment(DeploymentRef(NAME, slot, f"b{version}", version), (endpoint,))


class Service:
    """Stable and a candidate, each with half of the traffic and all of a healthy model."""

    def __init__(self, gateway: Gateway, pods: list[RunningPod]) -> None:
        self.gateway, self.pods = gateway, pods
        stable, candidate = (arm(n, p, s) for n, p, s in zip((1, 2), pods, Slot, strict=True))
        gateway.router.write(
            NAME,
            TrafficSplit(50, 50),
            stable=stable,
            candidate=candidate,
            at=0,
            settings=RouteSettings(timeout_ms=1000),
        )
        gateway.wait(lambda: {self.post(1).headers.get("x-slipway-arm") for _ in range(8)} >= {"stable"})
        gateway.wait(lambda: self.errors() is not None and self.post(1).status_code == 200)

    def post(self, rows: int, *, binary: bool = False) -> httpx.Response:
        tensor: dict[str, Any] = {"name": "input", "shape": [rows, 4], "datatype": "FP32"}
        path = f"/v2/models/{NAME}/infer"
        if not binary:
            whole = {"inputs": [{**tensor, "data": [1] * 4 * rows}]}
            return self.gateway.client.post(path, content=json.dumps(whole))
        raw = np.ones((rows, 4), np.float32).tobytes()
        head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]}).encode()
        headers = {"inference-header-content-length": str(len(head))}
        return self.gateway.client.post(path, content=head + raw, headers=headers)

    def errors(self) -> int:
        with closing(EnvoyAdmin(self.gateway.home.envoy_stats_url, timeout_seconds=10)) as admin:
            return sum(counted.errors for counted in admin.counters()[NAME].values())

    def statuses(self) -> Counter[int]:
        found: Counter[int] = Counter()
        for pod in self.pods:
            found.update(pod.pod.repository.models[0].metrics.codes)
        return found


@pytest.fixture(scope="module")
def service(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    parent = tmp_path_factory.mktemp("bundles")
    with ExitStack() as stack:
        bundles = [make_bundle(parent, mlp(), name=NAME, version=n, serving=SERVING) for n in (1, 2)]
        yield Service(gateway, [stack.enter_context(running_pod(bundle)) for bundle in bundles])


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_a_request_of_too_many_rows_is_asked_once_and_counts_against_nobody(
    service: Service, *, binary: bool
) -> None:
    before, seen = service.errors(), service.statuses()
    answers = [service.post(400_000, binary=binary) for _ in range(ASKED)]
    assert {answer.status_code for answer in answers} == {413}
    assert {answer.headers["x-envoy-attempt-count"] for answer in answers} == {"1"}
    assert f"at most {MOST} rows" in answers[0].json()["error"]
    assert service.errors() == before
    assert service.statuses()[413] - seen[413] == ASKED


def test_the_same_over_grpc(service: Service) -> None:
    before, seen = service.errors(), service.statuses()
    tensor = triton.InferInput("input", [400_000, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((400_000, 4), np.float32))
    with triton.InferenceServerClient(f"127.0.0.1:{service.gateway.home.ports.gateway}") as client:
        for _ in range(ASKED):
            with pytest.raises(triton.InferenceServerException, match=f"at most {MOST} rows") as refused:
                client.infer(NAME, [tensor])
            assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    assert service.errors() == before
    assert service.statuses()[413] - seen[413] == ASKED


def test_nor_does_one_that_turns_out_to_take_too_long(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model has become slower than it was when it was measured."""
    for pod in service.pods:
        engine: Any = pod.pod.repository.models[0].engine

        def slow(inputs: Any, run: Any = engine.run) -> Any:
            time.sleep(0.02)
            return run(inputs)

        monkeypatch.setattr(engine, "run", slow)
    before, seen = service.errors(), service.statuses()
    answers = [service.post(MOST) for _ in range(4)]
    assert {answer.status_code for answer in answers} == {413}
    assert "more than can be computed now" in answers[0].json()["error"]
    assert {answer.headers["x-envoy-attempt-count"] for answer in answers} == {"1"}
    assert service.errors() == before
    assert service.statuses()[413] - seen[413] == 4

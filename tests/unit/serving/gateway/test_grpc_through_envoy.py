"""Both protocols through a real Envoy to real pods, and what its token buckets let through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from serving.metrics.envoy import EnvoyAdmin
from serving.types import Deployment, DeploymentRef, Endpoint, RouteSettings, Slot, TrafficSplit
from tests.bundles import make_bundle, mlp
from tests.pods import RunningPod, running_pod
from tests.unit.serving.gateway_process import Gateway

ROW = np.array([[1, 2, 3, 4]], np.float32)
BODY = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
FAILING = "wine@2:error_rate=1"


class Service:
    """`wine` with version 1 as stable and a version 2 that fails whatever it is asked."""

    def __init__(self, gateway: Gateway, stable: RunningPod, candidate: RunningPod) -> None:
        self.gateway, self.candidate_pod = gateway, candidate
        self.stable = deployment("wine", 1, stable, Slot.BLUE)
        self.candidate = deployment("wine", 2, candidate, Slot.GREEN)

    def route(self, weight: float, settings: RouteSettings | None = None) -> None:
        router = self.gateway.router
        at = router.read("wine").revision if "wine" in router.services() else 0
        split = TrafficSplit(100 - weight, weight)
        arms = {"stable": self.stable, "candidate": self.candidate}
        router.write("wine", split, at=at, settings=settings or RouteSettings(), **arms)

    def failures(self) -> int:
        """Requests that the candidate failed, whoever asked."""
        return sum(
            count
            for model in self.candidate_pod.pod.repository.models
            for code, count in model.metrics.codes.items()
            if code >= 500
        )

    def post(self, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.gateway.client.post("/v2/models/wine/infer", json=BODY, headers=named)


def deployment(service: str, version: int, pod: RunningPod, slot: Slot) -> Deployment:
    endpoint = Endpoint("127.0.0.1", pod.port)
    return Deployment(DeploymentRef(service, slot, f"b{version}", version), (endpoint,))


@pytest.fixture(scope="module")
def service(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    parent = tmp_path_factory.mktemp("bundles")
    # Long, for large messages on a machine that does other things as well.
    serving = {"stochastic": True, "timeout_ms": 20_000}
    with ExitStack() as stack:
        pods = [
            stack.enter_context(
                running_pod(
                    make_bundle(parent, mlp(seed=v), name="wine", version=v, serving=serving), faults=FAILING
                )
            )
            for v in (1, 2)
        ]
        service = Service(gateway, *pods)
        service.route(0)
        gateway.wait(lambda: service.post().status_code == 200)
        yield service


@pytest.fixture
def client(gateway: Gateway) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{gateway.home.ports.gateway}") as found:
        yield found


def tensor(rows: np.ndarray = ROW) -> list[triton.InferInput]:
    found = triton.InferInput("input", rows.shape, "FP32")
    found.set_data_from_numpy(rows)
    return [found]


def wait_for_traffic(service: Service) -> None:
    before = service.failures()
    service.gateway.wait(lambda: service.post() and service.failures() > before)


def test_an_unmodified_grpc_client_is_routed_by_the_model_it_names(
    service: Service, client: triton.InferenceServerClient
) -> None:
    found = client.infer("wine", tensor())
    expected = service.post().json()["outputs"]
    np.testing.assert_allclose(found.as_numpy("probabilities").ravel(), expected[1]["data"], rtol=1e-5)
    assert found.get_response().model_version == "1"
    assert client.is_model_ready("wine")
    assert client.get_model_metadata("wine").inputs[0].name == "input"


@pytest.mark.parametrize("weight", [50, 100])
def test_a_failing_candidate_costs_grpc_callers_nothing(
    service: Service, client: triton.InferenceServerClient, weight: float
) -> None:
    service.route(weight)
    wait_for_traffic(service)
    before = service.failures()
    versions = Counter(client.infer("wine", tensor()).get_response().model_version for _ in range(60))
    assert versions == {"1": 60}
    assert service.failures() > before
    service.route(0)


def test_a_grpc_call_marked_non_idempotent_is_sent_once(
    service: Service, client: triton.InferenceServerClient
) -> None:
    service.route(100)
    wait_for_traffic(service)
    before = service.failures()
    with pytest.raises(triton.InferenceServerException, match="SLIPWAY_FAULTS"):
        client.infer("wine", tensor(), headers={"x-slipway-idempotent": "false"})
    assert service.failures() == before + 1
    service.route(0)


def test_a_grpc_call_may_ask_for_the_candidate(
    service: Service, client: triton.InferenceServerClient
) -> None:
    with pytest.raises(triton.InferenceServerException, match="SLIPWAY_FAULTS"):
        client.infer("wine", tensor(), headers=service.gateway.preview("wine"))


def test_failed_grpc_calls_are_counted_against_the_candidate(
    service: Service, client: triton.InferenceServerClient
) -> None:
    service.route(50)
    wait_for_traffic(service)
    admin = EnvoyAdmin(service.gateway.home.envoy_stats_url, timeout_seconds=10)
    endpoint = service.candidate.endpoints[0]
    before = admin.counters()["wine"]
    for _ in range(40):
        client.infer("wine", tensor())
    after = admin.counters()["wine"]
    admin.close()
    failed = {at: after[at].errors - before[at].errors for at in after}
    assert failed.pop(endpoint) >= 5
    assert set(failed.values()) == {0}
    service.route(0)


def test_an_unknown_model_is_named_to_a_grpc_caller_with_what_there_is(
    service: Service, client: triton.InferenceServerClient
) -> None:
    with pytest.raises(triton.InferenceServerException, match="wine") as refused:
        client.infer("nobody", tensor())
    assert refused.value.status() == "StatusCode.NOT_FOUND"
    assert refused.value.message() == "unknown model; this gateway serves: wine"


def test_a_compressed_message_needs_the_model_in_a_header(
    service: Service, client: triton.InferenceServerClient
) -> None:
    rows = np.repeat(ROW, 30, axis=0)
    with pytest.raises(triton.InferenceServerException, match="x-slipway-model"):
        client.infer("wine", tensor(rows), compression_algorithm="gzip")
    named = {"x-slipway-model": "wine"}
    found = client.infer("wine", tensor(rows), compression_algorithm="gzip", headers=named)
    assert found.as_numpy("label").shape == (30,)


def test_a_large_grpc_message_is_repeated_in_full(
    service: Service, client: triton.InferenceServerClient
) -> None:
    service.route(100)
    wait_for_traffic(service)
    rows = np.repeat(ROW, 100_000, axis=0)
    assert client.infer("wine", tensor(rows)).as_numpy("label").shape == (100_000,)
    service.route(0)


def test_a_stream_is_passed_on_as_it_comes(service: Service, client: triton.InferenceServerClient) -> None:
    answers: list[Any] = []
    named = {"x-slipway-model": "wine"}
    client.start_stream(lambda result, error: answers.append((result, error)), headers=named)
    for number in range(3):
        client.async_stream_infer("wine", tensor(), request_id=str(number))
        # The next is only sent when the one before was answered: nothing is held back until the end.
        service.gateway.wait(lambda expected=number + 1: len(answers) == expected)
    client.stop_stream()
    assert [result.get_response().id for result, _ in answers] == ["0", "1", "2"]


def test_streams_stay_with_stable_and_count_for_no_verdict(
    service: Service, client: triton.InferenceServerClient
) -> None:
    service.route(100)
    wait_for_traffic(service)
    admin = EnvoyAdmin(service.gateway.home.envoy_stats_url, timeout_seconds=10)
    before = service.failures(), counted(admin)
    answers: list[Any] = []
    for number in range(5):
        headers = {"x-slipway-model": "wine"}
        client.start_stream(lambda result, error: answers.append((result, error)), headers=headers)
        client.async_stream_infer("wine", tensor())
        service.gateway.wait(lambda expected=number + 1: len(answers) == expected)
        client.stop_stream()
    assert [(error, result.get_response().model_version) for result, error in answers] == [(None, "1")] * 5
    assert (service.failures(), counted(admin)) == before
    admin.close()
    service.route(0)


def counted(admin: EnvoyAdmin) -> int:
    return sum(counters.requests for counters in admin.counters()["wine"].values())


def test_messages_that_are_no_protobuf_are_refused_not_routed(service: Service) -> None:
    method = "/inference.GRPCInferenceService/ModelInfer"
    address = f"127.0.0.1:{service.gateway.home.ports.gateway}"
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(method)
        for message in (b"", b"\n", b"\n\xff\xff\xff\xff\xff", b"\n\x04wi", b"\n\x04../x", b"\x00" * 400):
            with pytest.raises(grpc.RpcError) as refused:
                call(message, timeout=5)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert refused.value.details().startswith("the call names no model: ")

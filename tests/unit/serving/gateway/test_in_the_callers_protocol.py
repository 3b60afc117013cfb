"""What a real Envoy answers itself, in the words of whoever asks: REST, HTTP/1.0 and gRPC."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.types import (
    ALL_STABLE,
    Deployment,
    DeploymentRef,
    Endpoint,
    RateLimit,
    RouteSettings,
    Slot,
    TrafficSplit,
)
from tests.bundles import make_bundle, mlp
from tests.pods import RunningPod, running_pod
from tests.unit.serving.gateway_process import Gateway, free_ports, gateway_running
from tests.unit.serving.upstream import Pods, deployment

Stub = service_pb2_grpc.GRPCInferenceServiceStub


def deploy(gateway: Gateway, name: str, port: int, settings: RouteSettings | None = None) -> None:
    at = gateway.router.read(name).revision if name in gateway.router.services() else 0
    stable = Deployment(DeploymentRef(name, Slot.BLUE, "b1", 1), (Endpoint("127.0.0.1", port),))
    gateway.router.write(name, ALL_STABLE, stable=stable, candidate=None, at=at, settings=settings)


@pytest.fixture(scope="module")
def pod(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPod]:
    folder = tmp_path_factory.mktemp("b")
    with ExitStack() as stack:
        running = stack.enter_context(running_pod(make_bundle(folder, mlp(), name="wine")))
        asleep = stack.enter_context(running_pod(make_bundle(folder, mlp(), name="asleep")))
        asleep.management.post("/v2/repository/models/asleep/unload").raise_for_status()
        # A model whose pod is gone and one whose pod is not ready. Their names come first.
        deploy(gateway, "absent", free_ports(1)[0])
        deploy(gateway, "asleep", asleep.port)
        deploy(gateway, "wine", running.port)
        gateway.wait(lambda: gateway.client.get("/v2/models/wine/ready").status_code == 200)
        yield running


@pytest.fixture
def stub(gateway: Gateway) -> Iterator[Stub]:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.home.ports.gateway}") as channel:
        yield Stub(channel)


def refusal(call: object, *arguments: object, **options: object) -> tuple[grpc.StatusCode, str]:
    assert callable(call)
    with pytest.raises(grpc.RpcError) as refused:
        call(*arguments, timeout=10, **options)
    return refused.value.code(), str(refused.value.details())


def infer_request(model: str = "wine", rows: int = 1) -> service_pb2.ModelInferRequest:
    asked = service_pb2.ModelInferRequest(model_name=model)
    asked.inputs.add(name="input", datatype="FP32", shape=[rows, 4])
    asked.raw_input_contents.append(np.zeros((rows, 4), np.float32).tobytes())
    return asked


def test_what_names_no_model_is_answered_by_any_pod_that_can_be_reached(
    gateway: Gateway, pod: RunningPod, stub: Stub
) -> None:
    for _ in range(20):
        assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=10).live
        assert stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=10).ready
        assert stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=10).name == "slipway"
        assert gateway.client.get("/v2").json()["name"] == "slipway"


def test_unmodified_clients_read_configuration_and_statistics(gateway: Gateway, pod: RunningPod) -> None:
    address = f"127.0.0.1:{gateway.home.ports.gateway}"
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.get_server_metadata().name == "slipway"
        assert client.get_model_config("wine").config.max_batch_size == 32
        assert client.get_inference_statistics("wine").model_stats[0].name == "wine"
    with triton_http.InferenceServerClient(address) as client:
        assert client.get_server_metadata()["name"] == "slipway"
        assert client.get_model_config("wine", "1")["max_batch_size"] == 32
        assert client.get_inference_statistics("wine")["model_stats"][0]["name"] == "wine"


def test_errors_are_statuses_of_grpc_with_words_to_read(pod: RunningPod, stub: Stub) -> None:
    code, words = refusal(stub.ModelInfer, infer_request("nobody"))
    assert (code, words) == (
        grpc.StatusCode.NOT_FOUND,
        "unknown model; this gateway serves: absent, asleep, wine",
    )
    code, words = refusal(stub.ModelInfer, service_pb2.ModelInferRequest())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert words.startswith("the call names no model: ")
    code, words = refusal(stub.ModelInfer, infer_request("absent"))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "{" not in words
    code, words = refusal(stub.ModelInfer, infer_request(rows=1_200_000))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "{" not in words


def test_a_caller_over_its_rate_is_told_so_in_grpc(gateway: Gateway, pod: RunningPod, stub: Stub) -> None:
    deploy(gateway, "wine", pod.port, RouteSettings(rate_limit=RateLimit(per_second=0.1, burst=1)))
    found: set[tuple[grpc.StatusCode, str]] = set()

    def is_limited() -> bool:
        try:
            stub.ModelInfer(infer_request(), timeout=10)
        except grpc.RpcError as error:
            found.add((error.code(), error.details()))
        return bool(found)

    gateway.wait(is_limited)
    assert found == {(grpc.StatusCode.RESOURCE_EXHAUSTED, "local_rate_limited")}
    deploy(gateway, "wine", pod.port, RouteSettings())
    gateway.wait(lambda: gateway.client.get("/v2/models/wine/ready").status_code == 200)


def test_a_late_answer_is_deadline_exceeded_in_grpc(
    gateway: Gateway, tmp_path: pytest.TempPathFactory, stub: Stub
) -> None:
    with ExitStack() as stack:
        bundle = make_bundle(tmp_path, mlp(), name="late")  # type: ignore[arg-type]
        late = stack.enter_context(running_pod(bundle, faults="late@1:delay_ms=2000"))
        deploy(gateway, "late", late.port, RouteSettings(timeout_ms=100, idempotent=False))
        gateway.wait(lambda: gateway.client.get("/v2/models/late/ready").status_code == 200)
        code, words = refusal(stub.ModelInfer, infer_request("late"))
        assert (code, words) == (grpc.StatusCode.DEADLINE_EXCEEDED, "upstream request timeout")


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        ("GET /v2/health/live HTTP/1.0", (), 200),
        ("GET /v2/models/wine/ready HTTP/1.0", (), 200),
        ("GET /v2/nothing HTTP/1.0", (), 404),
        ("GET / HTTP/1.1", (), 400),
        ("GET /v2%2fmodels HTTP/1.1", ("host: x",), 400),
        ("GET /v2/models/wine HTTP/1.1", ("host: x", "upgrade: websocket", "connection: upgrade"), 403),
        ("CONNECT x:80 HTTP/1.1", ("host: x",), 404),
        ("GET /v2/models/absent HTTP/1.1", ("host: x",), 503),
    ],
)
def test_every_answer_to_rest_is_json_that_says_something(
    gateway: Gateway, pod: RunningPod, request_line: str, headers: tuple[str, ...], status: int
) -> None:
    said = "\r\n".join((request_line, *headers, "", "")).encode()
    with socket.create_connection(("127.0.0.1", gateway.home.ports.gateway), timeout=10) as connection:
        connection.sendall(said)
        answer = http.client.HTTPResponse(connection, method=request_line.split(" ")[0])
        answer.begin()
        told = httpx.Response(answer.status, content=answer.read()).json()
    assert answer.status == status
    assert told if status == 200 else told["error"]


def test_a_gateway_without_models_lives_and_is_not_ready(tmp_path_factory: pytest.TempPathFactory) -> None:
    with gateway_running(tmp_path_factory.mktemp("empty")) as empty:
        assert empty.client.get("/v2/health/live").json() == {"live": True}
        answer = empty.client.get("/v2/health/ready")
        assert (answer.status_code, list(answer.json())) == (503, ["error"])
        with grpc.insecure_channel(f"127.0.0.1:{empty.home.ports.gateway}") as channel:
            code, words = refusal(Stub(channel).ServerReady, service_pb2.ServerReadyRequest())
            assert (code, words) == (grpc.StatusCode.UNAVAILABLE, "no healthy upstream")


def test_a_pod_that_hangs_keeps_nobody_waiting_who_asks_of_the_server(
    tmp_path_factory: pytest.TempPathFactory, pods: Pods
) -> None:
    """Its health checks are answered, and nothing else. gRPC is spoken over HTTP/1.1, as this pod does."""
    empty, stuck = b"\0\0\0\0\0", b"\0\0\0\0\x07\x0a\x05stuck"
    calls = [
        *((f"/inference.GRPCInferenceService/Server{name}", empty) for name in ("Live", "Ready", "Metadata")),
        *(("/grpc.health.v1.Health/Check", message) for message in (empty, stuck)),
    ]
    with gateway_running(tmp_path_factory.mktemp("stuck")) as alone, ThreadPoolExecutor(8) as threads:
        deploy(alone, "stuck", pods.start("stuck", fault="hang").port)
        alone.wait(lambda: alone.client.get("/v2/health/ready").status_code == 200)
        of_rest = [threads.submit(alone.client.get, path) for path in ("/v2", "/v2/")]
        spoken = {"content-type": "application/grpc"}
        of_grpc = [
            threads.submit(alone.client.post, path, content=message, headers=spoken)
            for path, message in calls
        ]
        assert {each.result().status_code for each in of_rest} == {504}
        assert {each.result().headers["grpc-status"] for each in of_grpc} == {"4"}


def test_whoever_reads_of_a_first_version_notices_nothing_of_its_promotion(
    gateway: Gateway, pods: Pods
) -> None:
    candidate = deployment("early", 1, pods.start("early"), slot=Slot.GREEN)
    arms = {"stable": None, "candidate": candidate}
    gateway.router.write("early", TrafficSplit(0, 100), **arms, at=0, settings=RouteSettings())
    path = "/v2/models/early/ready"
    gateway.wait(lambda: gateway.client.get(path).status_code == 200)
    is_stable, found = Event(), list[int]()
    with ThreadPoolExecutor(1) as threads:
        reader = threads.submit(read_until, is_stable, gateway, path, found)
        gateway.wait(lambda: len(found) > 20)
        gateway.router.write("early", ALL_STABLE, stable=candidate, candidate=None, at=1)
        gateway.wait(lambda: gateway.infer("early").headers["x-slipway-arm"] == "stable")
        is_stable.set()
        reader.result()
    assert set(found) == {200}


def read_until(ended: Event, gateway: Gateway, path: str, found: list[int]) -> None:
    with httpx.Client(base_url=gateway.home.gateway_url, timeout=20) as client:
        while not ended.is_set():
            found.append(client.get(path).status_code)

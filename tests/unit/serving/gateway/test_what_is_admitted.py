"""What a caller of the gateway may ask, said over real sockets to a real Envoy before a real pod."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator

import grpc
import httpx
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, Slot
from tests.bundles import make_bundle, mlp
from tests.pods import RunningPod, running_pod
from tests.unit.serving.gateway_process import Gateway

NAME = "guarded"
ROW = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
BODY = json.dumps(ROW).encode()
UNLOAD = f"/v2/repository/models/{NAME}/unload"
NAMED = (("x-slipway-model", NAME),)


@pytest.fixture(scope="module")
def pod(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPod]:
    with running_pod(make_bundle(tmp_path_factory.mktemp("b"), mlp(), name=NAME)) as running:
        endpoint = Endpoint("127.0.0.1", running.port)
        stable = Deployment(DeploymentRef(NAME, Slot.BLUE, "b1", 1), (endpoint,))
        gateway.router.write(NAME, ALL_STABLE, stable=stable, candidate=None, at=0)
        gateway.wait(lambda: gateway.infer(NAME, body=BODY).status_code == 200)
        yield running


@pytest.fixture
def stub(gateway: Gateway) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.home.ports.gateway}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def say(gateway: Gateway, line: str, *headers: str) -> tuple[int, str]:
    """What is answered to a request line as it stands: no HTTP client would send some of them."""
    lines = [line, "host: x", "connection: close", "content-length: 0", *headers]
    with socket.create_connection(("127.0.0.1", gateway.home.ports.gateway), timeout=10) as connection:
        connection.sendall("\r\n".join((*lines, "", "")).encode("latin-1"))
        answer = http.client.HTTPResponse(connection, method=line.split(" ")[0])
        answer.begin()
        return answer.status, f"{answer.headers}{answer.read().decode()}"


def is_served(gateway: Gateway) -> bool:
    return gateway.infer(NAME, body=BODY).status_code == 200


@pytest.mark.parametrize(
    ("method", "request_message"),
    [
        ("RepositoryModelUnload", service_pb2.RepositoryModelUnloadRequest(model_name=NAME)),
        # The filter takes the first field of any message for the model's name.
        (
            "RepositoryModelUnload",
            service_pb2.RepositoryModelUnloadRequest(repository_name=NAME, model_name=NAME),
        ),
        ("RepositoryModelLoad", service_pb2.RepositoryModelLoadRequest(model_name=NAME)),
        ("RepositoryIndex", service_pb2.RepositoryIndexRequest()),
    ],
)
@pytest.mark.parametrize("metadata", [NAMED, ()])
def test_no_caller_manages_models_through_the_gateway(
    gateway: Gateway,
    pod: RunningPod,
    stub: service_pb2_grpc.GRPCInferenceServiceStub,
    method: str,
    request_message: object,
    metadata: tuple[tuple[str, str], ...],
) -> None:
    before = pod.pod.repository.generation
    with pytest.raises(grpc.RpcError) as refused:
        getattr(stub, method)(request_message, metadata=metadata, timeout=5)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "not reached through the gateway" in refused.value.details()
    assert pod.pod.repository.generation == before
    assert is_served(gateway)


@pytest.mark.parametrize(
    "method",
    [
        "inference.GRPCInferenceService/SystemSharedMemoryRegister",
        "inference.GRPCInferenceService/TraceSetting",
        "inference.GRPCInferenceService/LogSettings",
        "inference.GRPCInferenceService/modelinfer",
        "inference.GRPCInferenceService/ModelInferAndMore",
        "inference.GRPCInferenceService/ModelInfer/",
        "inference.GRPCInferenceService/",
        "INFERENCE.GRPCInferenceService/RepositoryModelUnload",
        "inference.Other/RepositoryModelUnload",
    ],
)
def test_what_is_no_method_of_inference_is_unimplemented(
    gateway: Gateway, pod: RunningPod, method: str
) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.home.ports.gateway}") as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(f"/{method}")(b"", metadata=NAMED, timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "unknown path or method" in refused.value.details()


@pytest.mark.parametrize(
    "path",
    [
        UNLOAD,
        UNLOAD + "?x=/v2/models/guarded/infer",
        "//v2//repository///models/guarded/unload",
        "/v2/models/guarded/../../repository/models/guarded/unload",
        "/v2/models/guarded/%2e%2e/%2e%2E/repository/models/guarded/unload",
        "/v2/./repository/models/guarded/unload",
        f"http://elsewhere{UNLOAD}",
        "/v2/%72epository/models/guarded/unload",
        "/v2\\repository\\index",
        "/v2/repository/index",
        "/v2/repository",
        "//inference.GRPCInferenceService//RepositoryModelUnload",
    ],
)
def test_the_model_repository_is_closed_however_it_is_spelt(
    gateway: Gateway, pod: RunningPod, path: str
) -> None:
    status, answer = say(gateway, f"POST {path} HTTP/1.1", f"x-slipway-model: {NAME}")
    assert status == 403
    assert "--management" in answer
    assert is_served(gateway)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        ("/v2/server", 404),
        ("/metrics", 404),
        ("/v2/models", 404),
        ("/v2/models/guarded/unload", 404),
        ("/v2/models/guarded/", 404),
        ("/v2/models/guarded/metrics", 404),
        ("/v2/models/guarded/infer/", 404),
        ("/v2/models/guarded/infer/ready", 404),
        ("/v2/models/guarded/INFER", 404),
        ("/v2/models/guarded/%2569nfer", 404),
        ("/v2/models/guarded/infer%00", 400),
        ("/v2/models/guarded/infer%0a", 404),
        ("/v2/models/guarded/infer;x=1", 404),
        ("/v2/models/guarded/trace/setting", 404),
        ("/v2/models/guarded/versions", 404),
        ("/v2/models/guarded/versions/1/unload", 404),
        ("/v2/models/guarded/versions/1/versions/1/infer", 404),
        ("/V2/REPOSITORY/models/guarded/unload", 404),
        ("/v2/%2572epository/models/guarded/unload", 404),
        ("/v2/models/guarded%2f..%2f..%2frepository%2fmodels%2fguarded%2funload", 400),
        ("/v2/models/guarded%5c..%5c..%5crepository", 400),
        ("/v2/models/guarded/infer#/../../repository", 400),
        ("/v2/models/guarded?/infer", 405),
        ("v2/repository/index", 400),
        ("*", 400),
    ],
)
def test_only_the_paths_of_inference_lead_to_a_pod(
    gateway: Gateway, pod: RunningPod, path: str, status: int
) -> None:
    found, answer = say(gateway, f"POST {path} HTTP/1.1", f"x-slipway-model: {NAME}")
    assert found == status
    assert "x-slipway-bundle" not in answer
    assert "x-envoy-upstream-service-time" not in answer


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/infer", "POST"),
        ("/versions/1/infer", "POST"),
        ("", "GET, HEAD"),
        ("/ready", "GET, HEAD"),
        ("/versions/1", "GET, HEAD"),
        ("/versions/1/ready", "GET, HEAD"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "post"])
def test_a_path_is_asked_with_its_own_methods(
    gateway: Gateway, pod: RunningPod, path: str, allowed: str, method: str
) -> None:
    status, answer = say(gateway, f"{method} /v2/models/{NAME}{path} HTTP/1.1")
    if method in allowed:
        assert status != 405
        assert "x-envoy-upstream-service-time" in answer
    elif method == "post":
        # No method at all for Envoy's parser.
        assert status == 400
    else:
        assert status == 405
        assert f"allow: {allowed}" in answer


@pytest.mark.parametrize(
    ("content_type", "status", "of_grpc"),
    [
        ("application/grpc", 200, "12"),
        ("application/grpc+proto", 200, "12"),
        ("application/grpc-web", 415, "12"),
        ("Application/GRPC", 415, None),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/infer"), ("POST", "/versions/1/infer?x=/ModelInfer"), ("GET", "/ready"), ("GET", "")],
)
def test_grpc_on_a_path_of_rest_reaches_no_pod(
    gateway: Gateway,
    pod: RunningPod,
    method: str,
    path: str,
    content_type: str,
    status: int,
    of_grpc: str | None,
) -> None:
    """To who speaks gRPC a 415 is UNIMPLEMENTED in a 200."""
    answer = gateway.client.request(
        method, f"/v2/models/{NAME}{path}", content=BODY, headers={"content-type": content_type}
    )
    assert (answer.status_code, answer.headers.get("grpc-status")) == (status, of_grpc)
    assert "takes no application/grpc" in answer.headers.get("grpc-message", answer.text)
    assert "x-envoy-upstream-service-time" not in answer.headers


def test_a_tunnel_leads_nowhere(gateway: Gateway, pod: RunningPod) -> None:
    assert say(gateway, f"CONNECT 127.0.0.1:{pod.port} HTTP/1.1")[0] in (400, 403, 404)
    upgraded = say(gateway, f"GET {UNLOAD} HTTP/1.1", "upgrade: h2c", "connection: upgrade")
    assert upgraded[0] in (400, 403)


def test_all_methods_of_inference_are_let_in(gateway: Gateway, pod: RunningPod) -> None:
    base = f"/v2/models/{NAME}"
    for path in (base, f"{base}/ready", f"{base}/versions/1", f"{base}/versions/1/ready", f"{base}?a=/b"):
        assert gateway.client.get(path).status_code == 200
        assert gateway.client.head(path).status_code == 200
    for path in (f"{base}/infer", f"{base}/versions/1/infer", f"{base}/infer?x=y", f"{base}//%69nfer"):
        assert gateway.client.post(path, content=BODY).status_code == 200
    with triton.InferenceServerClient(f"127.0.0.1:{gateway.home.ports.gateway}") as client:
        assert client.is_model_ready(NAME)
        assert client.get_model_metadata(NAME).name == NAME


def test_a_refusal_is_in_the_protocols_shape(gateway: Gateway) -> None:
    answer: httpx.Response = gateway.client.post("/v2/repository/index")
    assert answer.status_code == 403
    assert list(answer.json()) == ["error"]

"""Models that ask for API keys, through a real Envoy: who is let in, how often, and what the pod is told."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import count
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.gateway import api_keys, authentication
from serving.sockets import UnixConnection
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, RateLimit, RouteSettings, Slot
from tests.bundles import make_bundle, mlp
from tests.pods import running_pod
from tests.unit.serving.gateway_process import Gateway
from tests.unit.serving.upstream import Pods, deployment

names = (f"keyed{number}" for number in count())
KEYED = RouteSettings(api_keys=True)


def serve(gateway: Gateway, pods: Pods, settings: RouteSettings = KEYED) -> str:
    """A new service whose pod answers."""
    name = next(names)
    stable = deployment(name, 1, pods.start(name))
    gateway.router.write(name, ALL_STABLE, stable=stable, candidate=None, at=0, settings=RouteSettings())
    gateway.wait_until_served_by(name, name)
    gateway.router.write(name, ALL_STABLE, stable=stable, candidate=None, at=1, settings=settings)
    wanted = 401 if settings.api_keys else 200
    gateway.wait(lambda: gateway.infer(name).status_code == wanted)
    return name


def client(gateway: Gateway, limit: RateLimit | None = None) -> tuple[str, str]:
    """A new client's name and its key, which Envoy knows."""
    name = f"client{next(names)}"
    return name, key_of(gateway, name, limit)


def key_of(gateway: Gateway, name: str, limit: RateLimit | None = None) -> str:
    key = api_keys.add_key(gateway.home, name, limit)
    # To ask with a key takes of its client's bucket.
    told = api_keys.add_key(gateway.home, "told-last")
    authentication.publish(gateway.home)
    probe = "keyed-probe"
    if probe not in gateway.router.services():
        gateway.router.write(probe, ALL_STABLE, stable=None, candidate=None, at=0, settings=KEYED)
    gateway.wait(lambda: gateway.infer(probe, {"x-api-key": told}).status_code == 503)
    return key


def asked(gateway: Gateway, name: str, times: int, **headers: str) -> Counter[int]:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Counter(gateway.infer(name, named).status_code for _ in range(times))


def test_who_has_no_key_is_not_let_in(gateway: Gateway, pods: Pods) -> None:
    service, (_, key) = serve(gateway, pods), client(gateway)
    before = pods.all[0].answered
    for headers in (
        {},
        {"x-api-key": "guess"},
        {"x-api-key": ""},
        {"x-api-key": key.lower()},
        {"x-api-key": key[:-1]},
        {"authorization": "Bearer guess"},
        {"authorization": "Basic " + key},
        {"x-slipway-client": "client"},
        {"x-slipway-arm": "candidate"},
        {"x-slipway-idempotent": "false"},
    ):
        answer = gateway.infer(service, headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert "authorization: Bearer KEY" in answer.json()["error"]
    for path in (f"/v2/models/{service}", f"/v2/models/{service}/ready", f"/v2/models/{service}/versions/1"):
        assert gateway.client.get(path).status_code == 401
    assert gateway.client.get(f"/v2/models/{service}/ready?x-api-key={key}").status_code == 401
    assert pods.all[0].answered == before


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_a_key_opens_and_the_pod_gets_the_clients_name_for_it(
    gateway: Gateway, pods: Pods, header: str
) -> None:
    service, (name, key) = serve(gateway, pods), client(gateway)
    value = key if header == "x-api-key" else f"Bearer {key}"
    answer = gateway.infer(service, {header: value, "x-slipway-client": "somebody else"})
    assert answer.status_code == 200
    head = pods.all[0].heads[-1]
    assert f"x-slipway-client: {name}\r\n" in head
    assert "somebody else" not in head
    assert key not in head


def test_a_model_without_keys_takes_everybody_and_believes_no_name(gateway: Gateway, pods: Pods) -> None:
    service = serve(gateway, pods, RouteSettings())
    assert gateway.infer(service, {"x-slipway-client": "shop"}).status_code == 200
    assert "x-slipway-client" not in pods.all[0].heads[-1]
    assert asked(gateway, service, 1, x_api_key="guess") == {200: 1}


def test_keys_come_and_go_without_a_restart(gateway: Gateway, pods: Pods) -> None:
    service, (name, old) = serve(gateway, pods), client(gateway)
    assert asked(gateway, service, 3, x_api_key=old) == {200: 3}
    new = key_of(gateway, name)
    assert asked(gateway, service, 1, x_api_key=old) == asked(gateway, service, 1, x_api_key=new) == {200: 1}
    assert api_keys.remove(gateway.home, name, but_newest=True) == 1
    authentication.publish(gateway.home)
    gateway.wait(lambda: asked(gateway, service, 1, x_api_key=old) == {401: 1})
    assert asked(gateway, service, 1, x_api_key=new) == {200: 1}
    assert api_keys.remove(gateway.home, name) == 1
    authentication.publish(gateway.home)
    gateway.wait(lambda: asked(gateway, service, 1, x_api_key=new) == {401: 1})


def test_a_client_has_its_own_rate_over_all_models_and_whatever_its_key(gateway: Gateway, pods: Pods) -> None:
    one, other = serve(gateway, pods), serve(gateway, pods)
    (name, key), (_, unlimited) = client(gateway, RateLimit(0.001, 4)), client(gateway)
    second = key_of(gateway, name)
    assert asked(gateway, one, 3, x_api_key=key) == {200: 3}
    assert asked(gateway, other, 3, x_api_key=second) == {200: 1, 429: 2}
    refused = gateway.infer(one, {"x-api-key": key})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert asked(gateway, one, 8, x_api_key=unlimited) == {200: 8}


def test_a_new_route_fills_no_clients_bucket(gateway: Gateway, pods: Pods) -> None:
    service, (_, key) = serve(gateway, pods), client(gateway, RateLimit(0.001, 2))
    assert asked(gateway, service, 3, x_api_key=key) == {200: 2, 429: 1}
    serve(gateway, pods)
    assert asked(gateway, service, 1, x_api_key=key) == {429: 1}


def test_a_models_own_limit_is_for_each_client_with_a_key(gateway: Gateway, pods: Pods) -> None:
    settings = RouteSettings(api_keys=True, client_rate_limit=RateLimit(0.001, 3))
    service, (_, one), (_, other) = serve(gateway, pods, settings), client(gateway), client(gateway)
    assert asked(gateway, service, 5, x_api_key=one) == {200: 3, 429: 2}
    assert asked(gateway, service, 3, x_api_key=other) == {200: 3}
    # Who is refused for want of a key takes nothing from anybody.
    assert asked(gateway, service, 5, x_api_key="guess") == {401: 5}


def test_keys_that_nobody_checks_are_no_clients(gateway: Gateway, pods: Pods) -> None:
    service = serve(gateway, pods, RouteSettings(client_rate_limit=RateLimit(0.001, 30)))
    gateway.wait(lambda: asked(gateway, service, 1, x_api_key=f"invented {next(names)}") == {429: 1})


@pytest.fixture(scope="module")
def real(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    name = "keyedreal"
    with running_pod(make_bundle(tmp_path_factory.mktemp("b"), mlp(), name=name)) as pod:
        stable = Deployment(DeploymentRef(name, Slot.BLUE, "b1", 1), (Endpoint("127.0.0.1", pod.port),))
        gateway.router.write(name, ALL_STABLE, stable=stable, candidate=None, at=0, settings=KEYED)
        gateway.wait(lambda: gateway.infer(name).status_code == 401)
        yield name


@pytest.fixture
def stub(gateway: Gateway) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.home.ports.gateway}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def message(name: str) -> service_pb2.ModelInferRequest:
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=[1, 4])
    tensor.contents.fp32_contents.extend([1, 2, 3, 4])
    return service_pb2.ModelInferRequest(model_name=name, inputs=[tensor])


def test_a_grpc_caller_without_a_key_is_unauthenticated(
    gateway: Gateway, real: str, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    """Also where the gateway learns from the message which model is meant."""
    _, key = client(gateway)
    in_header = (("x-slipway-model", real),)
    calls: list[Callable[..., Any]] = [
        partial(stub.ModelInfer, message(real)),
        partial(stub.ModelReady, service_pb2.ModelReadyRequest(name=real)),
        partial(stub.ModelMetadata, service_pb2.ModelMetadataRequest(name=real)),
        lambda metadata: list(stub.ModelStreamInfer(iter([message(real)]), metadata=(*in_header, *metadata))),
    ]
    for ask in calls:
        for metadata in ((), in_header, (("x-api-key", "guess"),), (("x-slipway-client", "shop"),)):
            with pytest.raises(grpc.RpcError) as refused:
                ask(metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        for metadata in ((("x-api-key", key),), (("authorization", f"Bearer {key}"),)):
            assert ask(metadata=metadata)


HEALTH = "/grpc.health.v1.Health"
OTHER = b"\x0a\x06nobody"


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_nobody_learns_without_a_key_how_a_keyed_model_is(gateway: Gateway, real: str, method: str) -> None:
    """Whatever the headers name, and however the message hides whom it asks of."""
    _, key = client(gateway)
    asked = b"\x0a" + bytes([len(real)]) + real.encode()
    nobody, gzipped = (("x-slipway-model", "nobody"),), grpc.Compression.Gzip
    with grpc.insecure_channel(f"127.0.0.1:{gateway.home.ports.gateway}") as channel:
        call = channel.unary_stream(f"{HEALTH}/{method}")

        def first(message: bytes, **options: Any) -> object:
            try:
                return next(call(message, timeout=10, **options))
            except grpc.RpcError as refused:
                return refused.code()

        # The pods of other tests are gone, which Envoy has to notice.
        gateway.wait(lambda: first(b"") == b"\x08\x01")
        for metadata in ((), nobody, (*nobody, *nobody), (("x-slipway-model", ""),)):
            assert first(asked, metadata=metadata) is grpc.StatusCode.UNAUTHENTICATED
            for hidden in (OTHER + asked, b"\x10\x01" + asked, asked + b"\x10\x01", asked + asked * 50):
                assert first(hidden, metadata=metadata) is grpc.StatusCode.INVALID_ARGUMENT
            long = asked * 50
            assert first(long, metadata=metadata, compression=gzipped) is grpc.StatusCode.INVALID_ARGUMENT
            # Of the server itself everybody may ask.
            assert first(b"", metadata=metadata) == b"\x08\x01"
        assert first(asked, metadata=(*nobody, ("x-api-key", key))) == b"\x08\x01"
        unknown = first(OTHER, metadata=(("x-slipway-model", real),))
        # SERVICE_UNKNOWN, as grpc's own protocol has it for who waits for a service.
        assert unknown == (b"\x08\x03" if method == "Watch" else grpc.StatusCode.NOT_FOUND)


def test_a_grpc_caller_over_its_rate_has_exhausted_it(
    gateway: Gateway, real: str, stub: service_pb2_grpc.GRPCInferenceServiceStub
) -> None:
    _, key = client(gateway, RateLimit(0.001, 2))
    metadata = (("x-api-key", key),)
    for _ in range(2):
        stub.ModelInfer(message(real), metadata=metadata)
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(message(real), metadata=metadata)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_no_key_is_in_what_envoy_tells_or_in_a_file_for_all(gateway: Gateway, pods: Pods) -> None:
    service, (_, key) = serve(gateway, pods), client(gateway)
    gateway.infer(service, {"x-api-key": key})
    for told in ("config_dump?include_eds", "listeners", "clusters", "stats"):
        assert key not in httpx.get(f"{gateway.home.envoy_stats_url}/{told}").text
        with closing(UnixConnection(gateway.home.envoy_admin, 10)) as admin:
            admin.request("GET", f"/{told}")
            assert key not in admin.getresponse().read().decode()
    for path in gateway.home.root.rglob("*"):
        if path.is_file() and key.encode() in path.read_bytes():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

"""A candidate that knows fewer categories than stable, both as real pods behind a real Envoy."""

from __future__ import annotations

import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any
from urllib.parse import unquote

import grpc
import httpx
import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.control.rollout.observe import share_in_force
from serving.gateway import preview
from serving.metrics.base import EndpointCounters
from serving.metrics.envoy import EnvoyAdmin
from serving.pod.grpc import frames
from serving.types import Deployment, DeploymentRef, Endpoint, RouteSettings, Slot, TrafficSplit
from tests.bundles import make_bundle, model_of
from tests.pods import RunningPod, running_pod
from tests.unit.serving.gateway_process import Gateway
from tests.unit.serving.pod.test_grpc_wire import Peer
from tests.unit.serving.world import NOTHING

ROWS = {1: 100, 2: 60}
NAME = "shop.items"


def table(rows: int, version: int) -> onnx.ModelProto:
    """An embedding: a row of the table for each `item`."""
    weights = numpy_helper.from_array(np.full((rows, 3), version, np.float32), "table")
    value = helper.make_tensor_value_info
    return model_of(
        [helper.make_node("Gather", ["table", "item"], ["vector"], axis=0)],
        [value("item", TensorProto.INT64, ["N"])],
        [value("vector", TensorProto.FLOAT, ["N", 3])],
        [weights],
    )


class Shop:
    """Version 1 has 100 items and is stable, version 2 has 60."""

    def __init__(self, gateway: Gateway, pods: dict[int, RunningPod]) -> None:
        self.gateway, self.pods = gateway, pods
        self.arms = {
            "stable": deployed(1, pods[1], Slot.BLUE),
            "candidate": deployed(2, pods[2], Slot.GREEN),
        }

    def route(self, weight: float, *, mirrored: bool = False) -> None:
        router = self.gateway.router
        at = router.read(NAME).revision if NAME in router.services() else 0
        router.write(
            NAME,
            TrafficSplit(100 - weight, weight, mirrored),
            at=at,
            settings=RouteSettings(timeout_ms=5000),
            **self.arms,
        )
        self.gateway.wait(lambda: self.ask(1).status_code == 200 and self.share() == weight / 100)
        self.before = self.counters()

    def ask(self, item: Any, path: str = "infer", **headers: str) -> httpx.Response:
        tensor = {"name": "item", "shape": [1], "datatype": "INT64", "data": [item]}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.gateway.client.post(f"/v2/models/{NAME}/{path}", json={"inputs": [tensor]}, headers=named)

    def call(self, item: int, version: str = "", metadata: tuple[tuple[str, str], ...] = ()) -> Any:
        """Over gRPC. Raises grpc.RpcError."""
        asked = service_pb2.ModelInferRequest(model_name=NAME, model_version=version)
        asked.inputs.add(name="item", datatype="INT64", shape=[1]).contents.int64_contents.append(item)
        with grpc.insecure_channel(f"127.0.0.1:{self.gateway.home.ports.gateway}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            return stub.ModelInfer(asked, timeout=10, metadata=metadata)

    def seen(self) -> dict[Endpoint, EndpointCounters]:
        with closing(EnvoyAdmin(self.gateway.home.envoy_stats_url, timeout_seconds=10)) as admin:
            return admin.counters()[NAME]

    def share(self) -> float:
        return share_in_force(self.gateway.router.read(NAME), self.seen())

    def counters(self) -> dict[str, EndpointCounters]:
        seen = self.seen()
        return {arm: seen.get(each.endpoints[0], NOTHING) for arm, each in self.arms.items()}

    def since(self, arm: str) -> tuple[int, int, int, int]:
        """Requests, errors, refused and malformed since the route was written, once all are logged."""
        time.sleep(0.2)
        now, then = self.counters()[arm], self.before[arm]
        names = ("requests", "errors", "repeated", "refused", "malformed")
        requests, errors, repeated, refused, malformed = (
            getattr(now, name) - getattr(then, name) for name in names
        )
        return requests, errors - repeated, refused, malformed


def deployed(version: int, pod: RunningPod, slot: Slot) -> Deployment:
    endpoint = Endpoint("127.0.0.1", pod.port)
    return Deployment(DeploymentRef(NAME, slot, f"b{version}", version), (endpoint,))


@pytest.fixture(scope="module")
def shop(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    parent = tmp_path_factory.mktemp("bundles")
    with ExitStack() as stack:
        pods = {
            version: stack.enter_context(
                running_pod(
                    make_bundle(
                        parent,
                        table(rows, version),
                        name=NAME,
                        version=version,
                        serving={"stochastic": True},
                        warmup={"item": np.array([1])},
                    )
                )
            )
            for version, rows in ROWS.items()
        }
        yield Shop(gateway, pods)


@pytest.mark.parametrize("weight", [50, 100])
def test_what_the_candidate_refuses_stable_answers_and_no_caller_sees_it(shop: Shop, weight: float) -> None:
    shop.route(weight)
    found = Counter(
        (answer.status_code, answer.json()["outputs"][0]["data"][0])
        for answer in (shop.ask(80) for _ in range(40))
    )
    assert found == {(200, 1.0): 40}
    requests, errors, refused, malformed = shop.since("candidate")
    assert (requests, errors, malformed) == (refused, 0, 0)
    assert refused > 0
    # One repeat on stable for each.
    assert shop.since("stable") == (40, 0, 0, 0)


def test_over_grpc_too(shop: Shop) -> None:
    shop.route(50)
    for _ in range(30):
        assert shop.call(80).model_version == "1"
    requests, errors, refused, malformed = shop.since("candidate")
    assert (requests, errors, malformed) == (refused, 0, 0)
    assert refused > 0
    assert shop.since("stable") == (30, 0, 0, 0)


def test_what_both_refuse_is_asked_once_of_each_at_most(shop: Shop) -> None:
    shop.route(50)
    answers = [shop.ask(200) for _ in range(40)]
    assert {answer.status_code for answer in answers} == {400}
    assert {answer.headers["x-slipway-refused"] for answer in answers} == {"model"}
    assert {answer.headers["x-slipway-arm"] for answer in answers} == {"stable"}
    assert {answer.headers["x-envoy-attempt-count"] for answer in answers} == {"1", "2"}
    with pytest.raises(grpc.RpcError) as refused:
        shop.call(200)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_malformed_request_is_repeated_nowhere_and_is_called_so_on_both_arms(shop: Shop) -> None:
    shop.route(50)
    answers = [shop.ask("no number") for _ in range(40)]
    assert {(answer.status_code, answer.headers["x-envoy-attempt-count"]) for answer in answers} == {
        (400, "1")
    }
    arms = [shop.since(arm) for arm in ("stable", "candidate")]
    assert sum(requests for requests, *_ in arms) == 40
    assert all(malformed == requests > 0 for requests, _, _, malformed in arms)
    assert all((errors, refused) == (0, 0) for _, errors, refused, _ in arms)


def test_malformed_grpc_calls_are_counted_as_such(shop: Shop) -> None:
    shop.route(100)
    asked = service_pb2.ModelInferRequest(model_name=NAME)
    with grpc.insecure_channel(f"127.0.0.1:{shop.gateway.home.ports.gateway}") as channel:
        for _ in range(5):
            with pytest.raises(grpc.RpcError):
                service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(asked)
    assert shop.since("candidate") == (5, 0, 0, 5)


def test_grpc_on_a_path_of_rest_is_nobodys_evidence(shop: Shop) -> None:
    """A pod answers it without trailers, which Envoy takes for an error of the endpoint."""
    shop.route(50)
    for _ in range(20):
        shop.ask(1, content_type="application/grpc")
    assert shop.since("candidate") == shop.since("stable") == (0, 0, 0, 0)


@pytest.mark.parametrize("is_preview", [False, True])
def test_what_may_be_sent_once_only_is_not_sent_to_stable(shop: Shop, is_preview: bool) -> None:
    shop.route(100)
    headers = shop.gateway.preview(NAME) if is_preview else {"x_slipway_idempotent": "false"}
    answer = shop.ask(80, **headers)
    assert (answer.status_code, answer.headers["x-envoy-attempt-count"]) == (400, "1")
    assert shop.since("stable") == (0, 0, 0, 0)


def test_a_preview_that_is_refused_is_nobodys_evidence(shop: Shop) -> None:
    shop.route(50)
    for _ in range(5):
        assert shop.ask(80, **shop.gateway.preview(NAME)).status_code == 400
        assert shop.ask("no number", **shop.gateway.preview(NAME)).status_code == 400
    assert shop.since("candidate") == shop.since("stable") == (0, 0, 0, 0)


def test_callers_do_not_see_what_the_gateway_notes_of_refusals(shop: Shop) -> None:
    shop.route(50)
    assert "x-slipway-refused-by" not in shop.ask(80).headers


@pytest.mark.parametrize("weight", [50, 100])
def test_whoever_reads_of_a_model_reads_of_stable_and_is_nobodys_evidence(shop: Shop, weight: float) -> None:
    shop.route(weight)
    assert read(shop) == {"1"}
    assert shop.since("candidate") == shop.since("stable") == (0, 0, 0, 0)


def test_a_first_version_is_read_of_without_evidence_either(shop: Shop) -> None:
    """Readiness probes would promote it without a single inference."""
    shop.route(100)
    router, candidate = shop.gateway.router, shop.arms["candidate"]
    at = router.read(NAME).revision
    router.write(NAME, TrafficSplit(0, 100), stable=None, candidate=candidate, at=at)
    shop.gateway.wait(lambda: shop.ask(1, "versions/1/infer").status_code == 404)
    before = shop.since("candidate")
    assert read(shop) == {"2"}
    assert shop.since("candidate") == before
    assert shop.ask(1).json()["model_version"] == "2"


def read(shop: Shop) -> set[str]:
    """Everything there is to read, some times. Returns the versions whose metadata it was."""
    found = set()
    asked, path = shop.gateway.client, f"/v2/models/{NAME}"
    with triton.InferenceServerClient(f"127.0.0.1:{shop.gateway.home.ports.gateway}") as client:
        for _ in range(10):
            for each in ("/ready", "/config", "/stats", "?x=/infer"):
                assert asked.get(path + each).status_code == 200
                assert asked.get(path + each, headers={"x-slipway-idempotent": "false"}).status_code == 200
            assert asked.head(f"{path}/ready").status_code == 200
            assert client.is_model_ready(NAME)
            assert client.get_model_config(NAME).config.name == NAME
            assert client.get_inference_statistics(NAME).model_stats[0].name == NAME
            found |= {*client.get_model_metadata(NAME).versions, *asked.get(path).json()["versions"]}
    return found


@pytest.mark.parametrize(("weight", "mirrored"), [(0, False), (0, True), (50, False), (100, False)])
def test_who_names_a_version_gets_it_and_never_by_lot(shop: Shop, weight: float, mirrored: bool) -> None:
    shop.route(weight, mirrored=mirrored)
    for version in ("1", "2"):
        right = shop.gateway.preview(NAME) if version == "2" else {}
        answers = [shop.ask(1, f"versions/{version}/infer", **right) for _ in range(20)]
        assert {(each.status_code, each.json().get("model_version")) for each in answers} == {(200, version)}
        assert {shop.call(1, version, tuple(right.items())).model_version for _ in range(20)} == {version}
        assert shop.gateway.client.get(f"/v2/models/{NAME}/versions/{version}/ready").status_code == 200
    assert shop.since("candidate") == shop.since("stable") == (0, 0, 0, 0)


def test_the_headers_name_model_and_version_of_what_the_gateway_cannot_read(shop: Shop) -> None:
    shop.route(50)
    right = preview.token(shop.gateway.home, NAME, seconds=60)
    for version in ("1", "2"):
        named = (("x-slipway-model", NAME), ("x-slipway-version", version), (preview.TOKEN_HEADER, right))
        assert {shop.call(1, version, named).model_version for _ in range(20)} == {version}


def test_a_version_in_the_message_alone_is_no_arms_evidence(shop: Shop) -> None:
    shop.route(50)
    found = Counter[str]()
    for version in ("1", "2") * 20:
        try:
            found[shop.call(1, version, (("x-slipway-model", NAME),)).model_version] += 1
        except grpc.RpcError as error:
            found[error.code().name] += 1
    assert found["NOT_FOUND"] > 0
    malformed = [shop.since(arm)[3] for arm in ("stable", "candidate")]
    assert sum(malformed) == found["NOT_FOUND"]
    counted, before = shop.counters(), shop.before
    assert [
        counted[arm].uninformative - before[arm].uninformative for arm in ("stable", "candidate")
    ] == malformed


def test_a_grpc_message_that_stalls_is_asked_of_one_arm_once_and_is_no_error(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.route(50)
    monkeypatch.setattr("serving.pod.connections._ARRIVAL_SECONDS", 0.2)
    half = frames.frame(frames.DATA, 0, 1, struct.pack(">BL", 0, 100) + b"x" * 50)
    with socket.create_connection(("127.0.0.1", shop.gateway.home.ports.gateway), timeout=30) as connection:
        peer = Peer(connection)
        peer.send(peer.headers(1, x_slipway_model=NAME), half)
        assert peer.status(1)[0] == 8
    monkeypatch.undo()
    arms = [shop.since(arm) for arm in ("stable", "candidate")]
    assert sorted(arms) == [(0, 0, 0, 0), (1, 0, 0, 1)]


def test_a_compression_nobody_reads_is_refused_before_any_arm(shop: Shop) -> None:
    shop.route(50)
    body = frames.frame(frames.DATA, frames.END_STREAM, 1, struct.pack(">BL", 1, 3) + b"abc")
    for encoding in ("zstd", "GZIP", "gzip,zstd"):
        with socket.create_connection(("127.0.0.1", shop.gateway.home.ports.gateway), timeout=30) as opened:
            peer = Peer(opened)
            peer.send(peer.headers(1, x_slipway_model=NAME, grpc_encoding=encoding), body)
            code, words = peer.status(1)
        assert code == 12
        assert "send identity, gzip or deflate" in unquote(words)
    assert shop.since("candidate") == shop.since("stable") == (0, 0, 0, 0)


def test_what_the_message_says_goes_before_a_header(shop: Shop) -> None:
    shop.route(50)
    for asked in ("", "1"):
        named = (("x-slipway-version", "2"),)
        found = {shop.call(1, asked, named).model_version for _ in range(40)}
        assert found == {"1"} if asked else {"1", "2"}


@pytest.mark.parametrize("version", ["3", "11", "1x", "01", "latest"])
def test_a_version_nobody_holds_is_refused_with_what_is_served(shop: Shop, version: str) -> None:
    shop.route(50)
    answer = shop.ask(1, f"versions/{version}/infer")
    assert answer.status_code == 404
    assert f"{NAME} serves version 1 and candidate version 2 now" in answer.text
    with pytest.raises(grpc.RpcError, match="serves version 1 and candidate version 2 now"):
        shop.call(1, version)
    assert shop.since("candidate") == shop.since("stable") == (0, 0, 0, 0)


def test_without_a_candidate_a_version_that_serves_is_live_traffic(shop: Shop) -> None:
    shop.route(0)
    router = shop.gateway.router
    at, stable = router.read(NAME).revision, shop.arms["stable"]
    router.write(NAME, TrafficSplit(100, 0), stable=stable, candidate=None, at=at)
    shop.gateway.wait(lambda: shop.ask(1, "versions/2/infer").status_code == 404)
    assert shop.ask(1, "versions/1/infer").json()["model_version"] == "1"
    assert shop.call(1, "1").model_version == "1"
    assert shop.since("stable") == (2, 0, 0, 0)
    assert "serves version 1 now" in shop.ask(1, "versions/2/infer").text


def test_an_unmodified_client_gets_the_version_it_names(shop: Shop) -> None:
    shop.route(50)
    tensor = triton.InferInput("item", [1], "INT64")
    tensor.set_data_from_numpy(np.array([80]))
    with triton.InferenceServerClient(f"127.0.0.1:{shop.gateway.home.ports.gateway}") as client:
        for _ in range(10):
            answer = client.infer(NAME, [tensor], model_version="1")
            assert answer.as_numpy("vector").tolist() == [[1.0, 1.0, 1.0]]
            with pytest.raises(triton.InferenceServerException, match="the model refuses this input"):
                client.infer(NAME, [tensor], model_version="2", headers=shop.gateway.preview(NAME))
            with pytest.raises(triton.InferenceServerException, match="only who has a right to it"):
                client.infer(NAME, [tensor], model_version="2")
        assert client.get_model_metadata(NAME, "2").versions == ["2"]
        with pytest.raises(triton.InferenceServerException, match="serves version 1 and candidate version 2"):
            client.infer(NAME, [tensor], model_version="7")
        assert client.infer(NAME, [tensor]).get_response().model_version == "1"
    assert shop.since("candidate")[2] <= 1

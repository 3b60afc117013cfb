"""Requests that processes of their own read for the pod are answered as if it had read them itself."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.pod.readers.arena import Arena
from tests.bundles import make_bundle, model_of
from tests.pods import RunningPod, running_pod
from tests.unit.serving.pod.held_engine import eventually

SIDE = 300
BODY = SIDE * SIDE
INFER = "/v2/models/credit_risk/infer"


def picture_model() -> onnx.ModelProto:
    """x [N, 300, 300] bytes to itself plus one: 90 kB a row."""
    value = helper.make_tensor_value_info
    one = onnx.numpy_helper.from_array(np.ones((), np.uint8), "one")
    return model_of(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        [value("x", TensorProto.UINT8, ["N", SIDE, SIDE])],
        [value("y", TensorProto.UINT8, ["N", SIDE, SIDE])],
        [one],
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles"), picture_model())


@pytest.fixture(scope="module")
def pod(pictures: Path) -> Iterator[RunningPod]:
    with running_pod(pictures, readers=2, max_body_bytes=4 << 20) as running:
        assert eventually(lambda: running.pod.readers.are_up, 20)
        yield running


@pytest.fixture
def stub(pod: RunningPod) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{pod.port}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def picture(seed: int, rows: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (rows, SIDE, SIDE), np.uint8)


def request(array: np.ndarray) -> tuple[bytes, dict[str, str]]:
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": list(array.shape),
                    "datatype": "UINT8",
                    "parameters": {"binary_data_size": array.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    return head + array.tobytes(), {"inference-header-content-length": str(len(head))}


def answered(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    blob = response.content[int(response.headers["inference-header-content-length"]) :]
    return np.frombuffer(blob, np.uint8)


def message(array: np.ndarray) -> Any:
    found = service_pb2.ModelInferRequest(model_name="credit_risk")
    found.inputs.add(name="x", datatype="UINT8", shape=array.shape)
    found.raw_input_contents.append(array.tobytes())
    return found


def test_each_of_many_large_bodies_gets_its_own_answer(pod: RunningPod) -> None:
    for seed in range(20):
        array = picture(seed)
        body, headers = request(array)
        said = answered(pod.http.post(INFER, content=body, headers=headers))
        np.testing.assert_array_equal(said, array.ravel() + 1)
    assert pod.pod.front.connections == 0


def test_rows_larger_than_one_read_and_json_are_answered_too(pod: RunningPod) -> None:
    array = picture(1, rows=30)
    body, headers = request(array)
    np.testing.assert_array_equal(
        answered(pod.http.post(INFER, content=body, headers=headers)), array.ravel() + 1
    )
    one = picture(2)
    asked = {
        "inputs": [{"name": "x", "shape": [1, SIDE, SIDE], "datatype": "UINT8", "data": one.ravel().tolist()}]
    }
    said = pod.infer(asked).json()["outputs"][0]["data"]
    np.testing.assert_array_equal(np.array(said).ravel(), one.ravel() + 1)


def test_bodies_that_come_in_pieces_and_several_at_once_keep_their_order(pod: RunningPod) -> None:
    arrays = [picture(seed) for seed in range(4)]
    wire = b""
    for array in arrays:
        body, headers = request(array)
        lines = [f"POST {INFER} HTTP/1.1", "host: x", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        wire += "\r\n".join([*lines, "", ""]).encode() + body
    with pod.connect() as connection, connection.makefile("rb") as answers:
        for at in range(0, len(wire), 50_001):
            connection.sendall(wire[at : at + 50_001])
        for array in arrays:
            assert answers.readline().startswith(b"HTTP/1.1 200")
            lines = dict(
                line.decode().lower().strip().split(": ", 1) for line in iter(answers.readline, b"\r\n")
            )
            body = answers.read(int(lines["content-length"]))
            said = np.frombuffer(body[int(lines["inference-header-content-length"]) :], np.uint8)
            np.testing.assert_array_equal(said, array.ravel() + 1)


def test_grpc_calls_streams_and_every_other_method(pod: RunningPod, stub: Any) -> None:
    arrays = [picture(seed) for seed in range(6)]
    for array in arrays:
        said = stub.ModelInfer(message(array)).raw_output_contents[0]
        np.testing.assert_array_equal(np.frombuffer(said, np.uint8), array.ravel() + 1)
    streamed = [
        answer.infer_response.raw_output_contents[0]
        for answer in stub.ModelStreamInfer(iter([message(array) for array in arrays]))
    ]
    assert sorted(streamed) == sorted((array + 1).tobytes() for array in arrays)
    assert stub.ServerReady(service_pb2.ServerReadyRequest()).ready
    assert stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="credit_risk")).inputs[0].name == "x"
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="nobody"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]


def test_errors_come_back_and_the_metrics_are_the_pods(pod: RunningPod) -> None:
    body, headers = request(picture(0))
    response = pod.http.post("/v2/models/nobody/infer", content=body, headers=headers)
    assert response.status_code == 404
    assert "this pod has: credit_risk" in response.json()["error"]
    broken = pod.http.post(INFER, content=body[:-1], headers=headers)
    assert broken.status_code == 400
    with httpx.Client(base_url=f"http://127.0.0.1:{pod.port}") as other:
        assert other.get("/v2/health/ready").status_code == 200
        metrics = other.get("/metrics").text
    assert 'code="200"' in metrics
    assert "slipway_connections 0" not in metrics


def test_a_body_too_large_is_refused_by_the_reader(pod: RunningPod) -> None:
    with pod.connect() as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {5 << 20}\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_places_of_answered_bodies_are_used_again(pod: RunningPod, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[int] = []
    view = Arena.view

    def seen(self: Arena, place: int, size: int) -> memoryview:
        places.append(place)
        return view(self, place, size)

    monkeypatch.setattr(Arena, "view", seen)
    body, headers = request(picture(3))
    with httpx.Client(base_url=f"http://127.0.0.1:{pod.port}") as fresh:
        for _ in range(100):
            answered(fresh.post(INFER, content=body, headers=headers))
    assert len(places) > 90, "large bodies were not received into the arena"
    assert len(set(places)) < 20


def test_a_caller_that_leaves_is_known_to_have_left(pod: RunningPod) -> None:
    body, headers = request(picture(4))
    for _ in range(5):
        connection = socket.create_connection(("127.0.0.1", pod.port))
        lines = [f"POST {INFER} HTTP/1.1", "host: x", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body[:70_000])
        connection.close()
    assert eventually(lambda: pod.pod.readers.is_quiet)
    assert all(not reader.exchanges for reader in pod.pod.readers._readers)


def test_a_reader_that_is_killed_is_started_again_and_the_pod_goes_on(pod: RunningPod) -> None:
    before = pod.pod.readers.processes
    os.kill(before[0], signal.SIGKILL)
    assert eventually(lambda: pod.pod.readers.are_up and pod.pod.readers.processes != before, 20)
    body, headers = request(picture(5))
    for _ in range(4):
        with httpx.Client(base_url=f"http://127.0.0.1:{pod.port}") as fresh:
            answered(fresh.post(INFER, content=body, headers=headers))


def test_draining_answers_what_was_asked_and_leaves_no_process(pictures: Path) -> None:
    with running_pod(pictures, readers=1, max_body_bytes=4 << 20) as leaving:
        assert eventually(lambda: leaving.pod.readers.are_up, 20)
        (process,) = leaving.pod.readers.processes
        body, headers = request(picture(6))
        answered(leaving.http.post(INFER, content=body, headers=headers))
        leaving.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)

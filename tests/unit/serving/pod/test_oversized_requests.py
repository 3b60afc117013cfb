"""Requests of more rows than there is time for: refused with the number, in every protocol, and unread."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.pod.grpc.early import beginning
from serving.pod.http.connection import Connection
from tests.bundles import elementwise, make_bundle, mlp, model_of
from tests.pods import RunningPod, running_pod
from tests.unit.serving.pod.held_engine import eventually, leave

INFER = "/v2/models/credit_risk/infer"
MOST = 100
# More than can be read in one go, so that its end is still to come when it is refused.
ROWS = 200_000


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPod]:
    bundle = make_bundle(tmp_path_factory.mktemp("limited"), mlp(), serving={"max_rows": MOST})
    with running_pod(bundle) as running:
        yield running


@pytest.fixture
def stub(pod: RunningPod) -> Iterator[Any]:
    limit = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{pod.port}", options=limit) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def body(rows: int, **json_options: Any) -> bytes:
    tensor = {"name": "input", "shape": [rows, 4], "datatype": "FP32", "data": [1.5] * (4 * rows)}
    return json.dumps({"inputs": [tensor]}, **json_options).encode()


def binary(rows: int) -> tuple[bytes, dict[str, str]]:
    raw = np.ones((rows, 4), np.float32).tobytes()
    tensor = {"name": "input", "shape": [rows, 4], "datatype": "FP32"}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    return head + raw, {"inference-header-content-length": str(len(head))}


def message(rows: int, *, typed: bool = False) -> Any:
    asked = service_pb2.ModelInferRequest(model_name="credit_risk", id="mine")
    tensor = asked.inputs.add(name="input", datatype="FP32", shape=[rows, 4])
    if typed:
        tensor.contents.fp32_contents.extend([1.5] * (4 * rows))
    else:
        asked.raw_input_contents.append(np.ones((rows, 4), np.float32).tobytes())
    return asked


def expect_refusal(words: str, rows: int = ROWS) -> None:
    assert f"{rows} rows" in words
    assert f"split it into requests of at most {MOST} rows" in words


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever begins to parse a request breaks."""

    def broken(*_: object) -> None:
        raise AssertionError("the request was parsed")

    monkeypatch.setattr("serving.pod.http.infer.read_request", broken)
    monkeypatch.setattr("serving.pod.grpc.infer._parsed", broken)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("sort_keys", [False, True], ids=["shape first", "shape last"])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_json_of_too_many_rows_is_refused_unread(pod: RunningPod, coding: str, *, sort_keys: bool) -> None:
    content = body(ROWS, sort_keys=sort_keys)
    content = gzip.compress(content, 1) if coding == "gzip" else content
    response = pod.http.post(INFER, content=content, headers={"content-encoding": coding})
    assert response.status_code == 413
    expect_refusal(response.json()["error"])
    assert response.headers["x-slipway-version"] == "1"


@pytest.mark.usefixtures("unread")
def test_binary_tensors_of_too_many_rows_are_refused_unread(pod: RunningPod) -> None:
    content, headers = binary(ROWS)
    response = pod.http.post(INFER, content=content, headers=headers)
    assert response.status_code == 413
    expect_refusal(response.json()["error"])


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
def test_a_grpc_message_of_too_many_rows_is_refused_unread(stub: Any, *, typed: bool) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(message(ROWS, typed=typed))
    said: Any = refused.value
    assert said.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    expect_refusal(said.details())


@pytest.mark.usefixtures("unread")
def test_a_compressed_grpc_message_of_too_many_rows_is_refused(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(message(ROWS), compression=grpc.Compression.Gzip)
    said: Any = refused.value
    assert said.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    expect_refusal(said.details())


@pytest.mark.parametrize("rows", [MOST + 1, ROWS])
def test_in_a_stream_it_is_a_message_with_its_id(stub: Any, rows: int) -> None:
    large, small = message(rows), message(1)
    small.id = "next"
    answers = {a.infer_response.id: a.error_message for a in stub.ModelStreamInfer(iter([large, small]))}
    assert answers["next"] == ""
    expect_refusal(answers["mine"], rows)


def test_one_row_too_many_is_refused_and_as_many_as_allowed_are_computed(pod: RunningPod, stub: Any) -> None:
    assert pod.http.post(INFER, content=body(MOST)).json()["outputs"][0]["shape"] == [MOST]
    response = pod.http.post(INFER, content=body(MOST + 1))
    assert response.status_code == 413
    expect_refusal(response.json()["error"], MOST + 1)
    assert list(stub.ModelInfer(message(MOST)).outputs[0].shape) == [MOST]
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(message(MOST + 1))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]


def test_the_connection_goes_on_and_the_refused_body_was_not_kept(
    pod: RunningPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    dispatch = pod.pod.front.dispatch
    monkeypatch.setattr(
        pod.pod.front, "dispatch", lambda exchange: (seen.append(len(exchange.body)), dispatch(exchange))
    )
    small = body(1)
    head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    with pod.connect() as connection, connection.makefile("rb") as answers:
        for content in (body(ROWS), small):
            connection.sendall((head % len(content)).encode() + content)
        assert [next_status(answers), next_status(answers)] == [413, 200]
    assert seen == [0, len(small)]


@pytest.mark.parametrize("rows", [ROWS, 1], ids=["refused", "taken"])
def test_others_are_heard_between_the_parts_of_a_large_body(
    pod: RunningPod, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    turn, parts, receive = [0], list[int](), Connection.buffer_updated

    def next_turn() -> None:
        turn[0] += 1
        if len(parts) < 1000:
            pod.loop.call_soon(next_turn)

    def received(self: Connection, size: int) -> None:
        parts.append(turn[0])
        receive(self, size)

    monkeypatch.setattr(Connection, "buffer_updated", received)
    content = body(rows).ljust(16 * 1024 * 1024)
    head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
    with pod.connect() as connection, connection.makefile("rb") as answers:
        pod.loop.call_soon_threadsafe(next_turn)
        connection.sendall(head.encode() + content)
        assert next_status(answers) == (413 if rows == ROWS else 200)
    monkeypatch.undo()
    between = list(parts)
    parts += [0] * 1000
    assert len(between) > 10
    assert len(set(between)) == len(between), "the loop read several parts in one turn"


def next_status(answers: Any) -> int:
    status = int(answers.readline().split()[1])
    headers = dict(line.decode().lower().strip().split(": ", 1) for line in iter(answers.readline, b"\r\n"))
    answers.read(int(headers["content-length"]))
    return status


def test_refusals_are_counted_as_what_they_are(pod: RunningPod) -> None:
    (model,) = pod.pod.repository.models
    before = dict(model.metrics.codes)
    pod.http.post(INFER, content=body(ROWS))
    pod.http.post(INFER, content=body(MOST + 1))
    assert model.metrics.codes[413] == before.get(413, 0) + 2
    assert {code for code in model.metrics.codes if code >= 500} == set()
    assert 'slipway_max_rows{model="credit_risk",version="1"} 100' in pod.http.get("/metrics").text


# What looks large and is not


def test_text_that_looks_like_a_shape_is_text(tmp_path: Path) -> None:
    bundle = make_bundle(
        tmp_path, elementwise("Identity", TensorProto.STRING, ("N", 1)), serving={"max_rows": MOST}
    )
    texts = ['"shape":[60000]', '\\"shape":[60000]', "x" * 100_000, '{"shape": [60000, 4]}']
    tensor = {"name": "x", "datatype": "BYTES", "shape": [4, 1], "data": texts}
    with running_pod(bundle) as running:
        for asked in ({"inputs": [tensor]}, {"parameters": {"shape": [10**12]}, "inputs": [tensor]}):
            response = running.infer(asked)
            assert response.status_code == 200, response.text
            assert response.json()["outputs"][0]["data"] == texts


@pytest.mark.parametrize("at", ["begins", "ends"])
def test_a_document_sent_in_binary_is_no_shape(tmp_path: Path, at: str) -> None:
    bundle = make_bundle(
        tmp_path, elementwise("Identity", TensorProto.STRING, ("N", 1)), serving={"max_rows": MOST}
    )
    shape, rest = b'{"shape":[60000],', b'"text":"%s"' % (b"x" * 100_000)
    document = shape + rest + b"}" if at == "begins" else b"{" + rest + b"," + shape[1:-1] + b"}"
    raw = len(document).to_bytes(4, "little") + document
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    with running_pod(bundle) as running:
        (model,) = running.pod.repository.models
        response = running.http.post(f"/v2/models/{model.name}/infer", content=head + raw, headers=headers)
        assert response.status_code == 200, response.text
        packed = gzip.compress(head + raw, 1)
        headers["content-encoding"] = "gzip"
        response = running.http.post(f"/v2/models/{model.name}/infer", content=packed, headers=headers)
        assert response.status_code == 200, response.text


def test_only_what_is_certain_is_told_of_a_messages_beginning() -> None:
    whole = message(7).SerializeToString()
    assert beginning(whole) == ("credit_risk", "", ((7, 4),))
    for end in range(len(whole)):
        found = beginning(whole[:end])
        assert "credit_risk".startswith(found.model)
    assert beginning(b"\xff" * 100).shapes == ()
    unpacked = b"\x0a\x01m\x2a\x06\x18\x07\x18\x04\x22\x00"
    assert beginning(unpacked) == ("m", "", ((7, 4),))


# Callers who leave, and rows with lengths


def test_a_caller_who_hangs_up_is_computed_for_no_longer(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, mlp(), serving={"timeout_ms": 60_000, "max_batch_size": 4})
    with running_pod(bundle) as running:
        (model,) = running.pod.repository.models
        content, headers = binary(model.sizes.piece_rows * 1000)
        lines = [f"POST {INFER} HTTP/1.1", "host: x", f"content-length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        runs: list[int] = []
        engine: Any = model.engine
        run = engine.run
        connection = running.connect()

        def counted(inputs: Any) -> Any:
            if not runs:
                leave(connection)
            runs.append(len(inputs[0]))
            return run(inputs)

        engine.run = counted
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + content)
        assert eventually(lambda: model.metrics.codes.get(499) == 1)
        assert model.metrics.dropped == {"abandoned": 1}
        assert sum(runs) < model.sizes.piece_rows * 1000


def lengths_model() -> onnx.ModelProto:
    """ids [N, L] to their sum [N, 1]: rows of any length."""
    value, axes = helper.make_tensor_value_info, helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    node = helper.make_node("ReduceSum", ["ids", "axes"], ["y"], keepdims=1)
    inputs = [value("ids", TensorProto.FLOAT, ["N", "L"])]
    return model_of([node], inputs, [value("y", TensorProto.FLOAT, ["N", 1])], [axes])


def test_long_rows_count_by_their_length(tmp_path: Path) -> None:
    warm = {"ids": np.ones((8, 16), np.float32)}
    bundle = make_bundle(tmp_path, lengths_model(), serving={"max_rows": MOST}, warmup=warm)
    with running_pod(bundle) as running:
        for rows, length, status in ((100, 16, 200), (3, 512, 200), (100, 17, 413), (4, 512, 413)):
            tensor = {"name": "ids", "shape": [rows, length], "datatype": "FP32", "data": [1] * rows * length}
            response = running.infer({"inputs": [tensor]})
            assert response.status_code == status, response.text
            if status == 200:
                assert response.json()["outputs"][0]["data"] == [float(length)] * rows
            else:
                assert "may have 1600 elements" in response.json()["error"]


def test_without_real_rows_nothing_is_guessed_of_lengths(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, lengths_model(), serving={"max_rows": MOST})
    with running_pod(bundle) as running:
        tensor = {"name": "ids", "shape": [4, 5000], "datatype": "FP32", "data": [1] * 20_000}
        assert running.infer({"inputs": [tensor]}).status_code == 200


def test_large_answers_are_those_of_the_rows_alone(tmp_path: Path) -> None:
    strings = elementwise("Identity", TensorProto.STRING, ("N", 2))
    bundle = make_bundle(tmp_path, strings, serving={"max_batch_size": 4})
    texts = [str(n) for n in range(2 * 1001)]
    with running_pod(bundle) as running:
        tensor = {"name": "x", "shape": [1001, 2], "datatype": "BYTES", "data": texts}
        assert running.infer({"inputs": [tensor]}).json()["outputs"][0]["data"] == texts

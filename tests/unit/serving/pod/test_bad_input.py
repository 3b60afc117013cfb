"""A client's mistake is a 4xx that names it, never a 5xx, and the pod serves on."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import time
from typing import Any

import pytest

from tests.pods import RunningPod

GOOD = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


def tensor(**changes: Any) -> dict[str, Any]:
    """The good request with fields of its tensor changed, or left out when None."""
    fields = {**GOOD["inputs"][0], **changes}
    return {"inputs": [{key: value for key, value in fields.items() if value is not None}]}


@pytest.fixture(autouse=True)
def _serves_on(pod: RunningPod) -> Any:
    yield
    assert pod.infer(GOOD).status_code == 200


MISTAKES = {
    "wrong dtype": tensor(datatype="INT64"),
    "unknown dtype": tensor(datatype="FP33"),
    "dtype is no string": tensor(datatype=32),
    "wrong name": tensor(name="inputs"),
    "name is no string": tensor(name=["input"]),
    "wrong rank": tensor(shape=[4]),
    "wrong size": tensor(shape=[1, 5]),
    "negative size": tensor(shape=[-1, 4]),
    "fractional size": tensor(shape=[1.5, 4]),
    "string as a size": tensor(shape=["1", 4]),
    "nested shape": tensor(shape=[[1], 4]),
    "no shape": tensor(shape=None),
    "shape is a string": tensor(shape="14"),
    "too few values": tensor(data=[1, 2, 3]),
    "too many values": tensor(data=[1, 2, 3, 4, 5]),
    "more rows told than sent": tensor(shape=[2, 4]),
    "fewer rows told than sent": tensor(data=[1] * 8),
    "shape that is no number any more": tensor(shape=[2**200, 4]),
    "shape bomb": tensor(shape=[1] * 100_000),
    "string among numbers": tensor(data=[1, 2, 3, "4"]),
    "null among numbers": tensor(data=[1, 2, 3, None]),
    "bool among numbers": tensor(data=[1, 2, 3, True]),
    "false among numbers": tensor(data=[1, 2, 3, False]),
    "bool after much else": {**tensor(data=[1, 2, 3, True]), "a": "u" * 100, "inputs ": "l" * 100},
    "bool after a few of its letters": {"uut": "ual", **tensor(data=[False, 2, 3, 4])},
    "number too large for FP32": tensor(data=[1, 2, 3, 1e300]),
    "integer too large for a float": tensor(data=[1, 2, 3, 10**400]),
    "ragged nesting": tensor(shape=[2, 4], data=[[1, 2, 3, 4], [1, 2, 3]]),
    "transposed nesting": tensor(shape=[2, 4], data=[[1, 2]] * 4),
    "too deep nesting": tensor(data=[[[1, 2, 3, 4]]]),
    "string instead of a list": tensor(data="1234"),
    "object instead of a list": tensor(data={"0": 1}),
    "no data": tensor(data=None),
    "missing tensor": {"inputs": []},
    "no inputs": {},
    "inputs is an object": {"inputs": GOOD["inputs"][0]},
    "input is no object": {"inputs": [7]},
    "extra tensor": {"inputs": GOOD["inputs"] + tensor(name="other")["inputs"]},
    "the same tensor twice": {"inputs": GOOD["inputs"] * 2},
    "id is a number": {**GOOD, "id": 7},
    "parameters is a list": {**GOOD, "parameters": [1]},
    "tensor parameters is a string": tensor(parameters="x"),
    "unknown output": {**GOOD, "outputs": [{"name": "nope"}]},
    "output without a name": {**GOOD, "outputs": [{}]},
    "outputs is a string": {**GOOD, "outputs": "label"},
    "binary size without binary part": tensor(data=None, parameters={"binary_data_size": 16}),
    "a list": [GOOD],
    "a number": 7,
    "null": None,
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_request_is_a_400_that_says_what_is_wrong(pod: RunningPod, name: str) -> None:
    response = pod.http.post("/v2/models/credit_risk/infer", content=json.dumps(MISTAKES[name]))
    assert response.status_code == 400, response.text
    assert len(response.json()["error"]) > 20


@pytest.mark.parametrize("rows", [2**62, 2**63], ids=["product that overflows", "huge"])
def test_a_shape_beyond_all_bounds_is_a_413_whatever_follows(pod: RunningPod, rows: int) -> None:
    response = pod.http.post("/v2/models/credit_risk/infer", content=json.dumps(tensor(shape=[rows, 4])))
    assert response.status_code == 413, response.text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b'{"inputs": NaN}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\x00" * 64,
    ],
)
def test_malformed_json_is_a_400(pod: RunningPod, text: bytes) -> None:
    assert pod.http.post("/v2/models/credit_risk/infer", content=text).status_code == 400


def test_nan_and_infinity_in_json_are_refused(pod: RunningPod) -> None:
    for word in ("NaN", "Infinity", "-Infinity", "1e999"):
        text = json.dumps(GOOD).replace("[1, 2, 3, 4]", f"[1, 2, 3, {word}]")
        assert pod.http.post("/v2/models/credit_risk/infer", content=text).status_code == 400


def binary(pod: RunningPod, blob: bytes, size: object, header_length: object = None, **fields: Any) -> int:
    text = json.dumps(tensor(data=None, parameters={"binary_data_size": size}, **fields)).encode()
    length = len(text) if header_length is None else header_length
    headers = {"inference-header-content-length": str(length)}
    return pod.http.post("/v2/models/credit_risk/infer", content=text + blob, headers=headers).status_code


def test_binary_lengths_that_disagree_are_refused(pod: RunningPod) -> None:
    row = struct.pack("<4f", 1, 2, 3, 4)
    assert binary(pod, row, 16) == 200
    assert binary(pod, row[:-1], 16) == 400
    assert binary(pod, row, 15) == 400
    assert binary(pod, row + b"x", 16) == 400
    assert binary(pod, row, 2**62) == 400
    assert binary(pod, row, -16) == 400
    assert binary(pod, row, "16") == 400
    assert binary(pod, row, True) == 400
    assert binary(pod, row, 16, shape=[2**61, 4]) == 413
    for length in (10**9, -1, "x", "", "1" * 30):
        assert binary(pod, row, 16, header_length=length) == 400


def test_nan_in_a_binary_tensor_is_refused(pod: RunningPod) -> None:
    assert binary(pod, struct.pack("<4f", 1, 2, 3, float("nan")), 16) == 400
    assert binary(pod, struct.pack("<4f", 1, 2, 3, float("inf")), 16) == 400


def test_unknown_model_version_and_path_are_404_and_list_what_exists(pod: RunningPod) -> None:
    assert "credit_risk" in pod.infer(GOOD, model="nope").json()["error"]
    for path in (
        "/v2/models/nope/infer",
        "/v2/models/credit_risk/versions/7/infer",
        "/nope",
        "/v2/models/%ff",
    ):
        assert pod.http.post(path, json=GOOD).status_code == 404


def test_a_wrong_method_is_405(pod: RunningPod) -> None:
    assert pod.http.get("/v2/models/credit_risk/infer").status_code == 405
    assert pod.http.delete("/v2").status_code == 405


def test_a_body_over_the_limit_is_413_before_it_is_read(pod: RunningPod) -> None:
    with pod.connect() as client:
        client.sendall(
            b"POST /v2/models/credit_risk/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n"
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_chunked_body_over_the_limit_is_413(pod: RunningPod) -> None:
    with pod.connect() as client:
        client.sendall(
            b"POST /v2/models/credit_risk/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(17):
            client.sendall(chunk)
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_compressed_body_is_read_and_a_bomb_is_413(pod: RunningPod) -> None:
    def send(content: bytes, encoding: str = "gzip") -> int:
        headers = {"content-encoding": encoding}
        return pod.http.post("/v2/models/credit_risk/infer", content=content, headers=headers).status_code

    assert send(gzip.compress(json.dumps(GOOD).encode())) == 200
    assert send(gzip.compress(b" " * (64 * 1024 * 1024))) == 413
    assert send(b"not gzip") == 400
    assert send(gzip.compress(json.dumps(GOOD).encode())[:-9]) == 400
    assert send(b"x", encoding="br") == 415


def test_too_many_or_too_large_headers_are_431(pod: RunningPod) -> None:
    for headers in (b"a: b\r\n" * 0 + b"x-a: " + b"y" * 40_000 + b"\r\n", None):
        lines = headers or b"".join(b"x-%d: y\r\n" % n for n in range(5000))
        with pod.connect() as client:
            client.sendall(b"GET /v2 HTTP/1.1\r\n" + lines + b"\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nbad header\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_400_and_the_connection_closed(pod: RunningPod, noise: bytes) -> None:
    with pod.connect() as client:
        client.sendall(noise)
        received = client.recv(4096)
        assert received.startswith(b"HTTP/1.1 400 ")
        client.settimeout(5)
        while client.recv(4096):
            pass


def test_a_half_closed_connection_still_gets_its_answer(pod: RunningPod) -> None:
    body = json.dumps(GOOD).encode()
    with pod.connect() as client:
        client.sendall(
            b"POST /v2/models/credit_risk/infer HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        client.shutdown(socket.SHUT_WR)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert client.recv(4096) == b""


def test_pipelined_requests_are_answered_in_order(pod: RunningPod) -> None:
    def request(number: int) -> bytes:
        body = json.dumps({**GOOD, "id": str(number)}).encode()
        return b"POST /v2/models/credit_risk/infer HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body

    with pod.connect() as client:
        mixed = b"GET /v2/health/live HTTP/1.1\r\n\r\n"
        client.sendall(b"".join(request(n) + mixed for n in range(20)))
        received = b""
        while received.count(b"HTTP/1.1 200") < 40 or b'"id":"19"' not in received:
            received += client.recv(65536)
        positions = [received.index(b'"id":"%d"' % n) for n in range(20)]
        assert positions == sorted(positions)


def test_a_client_that_leaves_in_mid_batch_harms_nobody(pod: RunningPod) -> None:
    body = json.dumps(GOOD).encode()
    request = b"POST /v2/models/credit_risk/infer HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    for _ in range(30):
        client = pod.connect()
        client.sendall(request)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    assert pod.infer(GOOD).status_code == 200
    deadline = time.monotonic() + 5
    while pod.pod.repository.models[0].in_flight and time.monotonic() < deadline:
        time.sleep(0.01)
    assert pod.pod.repository.models[0].in_flight == 0


def test_a_client_that_drips_its_body_for_ever_is_408(
    pod: RunningPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.pod.connections._ARRIVAL_SECONDS", 0.2)
    with pod.connect() as client:
        client.sendall(b"POST /v2/models/credit_risk/infer HTTP/1.1\r\ncontent-length: 1000\r\n\r\n")
        client.settimeout(0.05)
        deadline = time.monotonic() + 10
        answer = b""
        while not answer and time.monotonic() < deadline:
            try:
                client.sendall(b" ")
                answer = client.recv(4096)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_request_that_arrives_too_slowly_is_408(pod: RunningPod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.pod.connections._ARRIVAL_SECONDS", 0.2)
    with pod.connect() as client:
        client.sendall(b"POST /v2/models/credit_risk/infer HTTP/1.1\r\ncontent-le")
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")

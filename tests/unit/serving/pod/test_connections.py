"""What one connection does must reach no other, and nothing that was asked for is lost."""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.pod.http.connection import MAX_WAITING
from tests.bundles import elementwise, make_bundle, mlp
from tests.pods import RunningPod, running_pod

INFER = b"/v2/models/credit_risk/infer"
GOOD = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
BODY = json.dumps(GOOD).encode()


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPod]:
    with running_pod(
        make_bundle(tmp_path_factory.mktemp("bundle"), mlp()), max_body_bytes=1 << 20
    ) as running:
        yield running


def request(body: bytes = BODY, *headers: bytes, target: bytes = INFER, version: bytes = b"1.1") -> bytes:
    lines = b"".join(line + b"\r\n" for line in (b"host: x", *headers, b"content-length: %d" % len(body)))
    return b"POST %s HTTP/%s\r\n%s\r\n%s" % (target, version, lines, body)


def said(pod: RunningPod, data: bytes) -> list[int]:
    """The statuses of all answers until the pod closes, the last of which has to be an end."""
    received = b""
    with pod.connect() as client:
        client.sendall(data)
        client.settimeout(5)
        while part := client.recv(1 << 16):
            received += part
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", received)]


@pytest.mark.parametrize(
    ("mistake", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", 413),
        (b"GET /v2 HTTP/1.1\r\nx-a: " + b"y" * 40_000 + b"\r\n\r\n", 431),
    ],
)
def test_a_mistake_behind_good_requests_is_told_after_their_answers(
    pod: RunningPod, mistake: bytes, status: int
) -> None:
    assert said(pod, request() * 3 + mistake) == [200, 200, 200, status]
    assert pod.infer(GOOD).status_code == 200


def test_more_pipelined_requests_than_may_wait_are_all_answered(pod: RunningPod) -> None:
    last = request(BODY, b"connection: close")
    assert said(pod, request() * (3 * MAX_WAITING) + last) == [200] * (3 * MAX_WAITING + 1)


def test_a_header_that_never_ends_is_refused_while_it_comes(pod: RunningPod) -> None:
    with pod.connect() as client:
        client.sendall(b"GET /v2 HTTP/1.1\r\nx-a: ")
        for _ in range(10):
            client.sendall(b"y" * 50_000)
        client.settimeout(5)
        assert client.recv(4096).startswith(b"HTTP/1.1 431 ")


def test_a_body_in_many_tiny_chunks_is_read(pod: RunningPod) -> None:
    head = b"POST %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n" % INFER
    pairs = [BODY[at : at + 2] for at in range(0, len(BODY), 2)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(pair), pair) for pair in [b"  "] * 100_000 + pairs)
    assert said(pod, head + chunks + b"0\r\n\r\n") == [200]


def test_an_offer_to_switch_protocols_is_passed_over(pod: RunningPod) -> None:
    offer = (b"connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"http2-settings: AAMAAABkAAQAAP__")
    last = request(BODY, b"connection: close")
    assert said(pod, request(BODY, *offer) + last) == [200, 200]
    bodiless = b"GET /v2 HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    assert said(pod, bodiless * 300 + last) == [200] * 301


def test_what_follows_a_chunked_body_changes_nothing(pod: RunningPod) -> None:
    head = b"POST %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n" % INFER
    trailer = b"0\r\ninference-header-content-length: 7\r\nx-slipway-priority: nonsense\r\n\r\n"
    assert said(pod, head + b"%x\r\n%s\r\n" % (len(BODY), BODY) + trailer) == [200]


def test_an_absolute_target_is_its_path(pod: RunningPod) -> None:
    """RFC 9112, 3.2.2: servers accept it, also from clients that are told of no proxy."""
    assert said(pod, request(BODY, b"connection: close", target=b"http://models.example:80" + INFER)) == [200]


def test_http_1_0_gets_its_answer_and_an_end(pod: RunningPod) -> None:
    assert said(pod, request(BODY, b"connection: keep-alive", version=b"1.0")) == [200]
    assert said(pod, request(BODY, b"expect: 100-continue", version=b"1.0")) == [200]


def test_gzip_in_several_members_and_any_case_is_read(pod: RunningPod) -> None:
    def send(content: bytes) -> int:
        headers = {"content-encoding": "GZIP"}
        return pod.http.post(INFER.decode(), content=content, headers=headers).status_code

    two = gzip.compress(BODY[:50]) + gzip.compress(BODY[50:])
    assert send(two) == 200
    assert send(two + b"more") == 400
    assert send(gzip.compress(b"") * 1000 + two) == 400


def test_a_body_is_not_taken_for_one_seen_before_when_its_encoding_is_a_lie(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, mlp((600, 8, 2)), serving={"cache": {"max_mb": 1}})
    values = np.linspace(0, 1, 600).tolist()
    body = {"inputs": [{"name": "input", "shape": [1, 600], "datatype": "FP32", "data": values}]}
    with running_pod(bundle) as pod:
        assert pod.infer(body).status_code == 200
        assert pod.infer(body, headers={"content-encoding": "gzip"}).status_code == 400


def test_what_rfc_9110_wants_beside_a_status(pod: RunningPod) -> None:
    assert pod.http.delete("/v2").headers["allow"] == "GET"


def test_a_drain_waits_for_answers_that_are_still_being_sent(tmp_path: Path) -> None:
    width = 700_000
    bundle = make_bundle(tmp_path, elementwise(shape=("N", width)))
    with running_pod(bundle) as pod:
        values = [0.123] * width
        body = json.dumps(
            {"inputs": [{"name": "x", "shape": [1, width], "datatype": "FP32", "data": values}]}
        ).encode()
        with pod.connect() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.sendall(request(body))
            received = client.recv(65536)
            stopping = threading.Thread(target=pod.stop)
            stopping.start()
            time.sleep(1)
            while part := client.recv(1 << 20):
                received += part
            stopping.join()
    length = int(re.search(rb"content-length: (\d+)", received)[1])  # type: ignore[index]
    assert len(received.partition(b"\r\n\r\n")[2]) == length

"""What no gRPC client would say: lying frames, floods, bombs. The connection may end; the pod does not."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hpack import Decoder, Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.pod.faults import Faults
from serving.pod.grpc import frames, messages
from serving.pod.grpc.header_blocks import HeaderReader, literal_block
from tests.pods import RunningPod

PATH = "/inference.GRPCInferenceService/ModelInfer"
GOOD = messages.message("ModelInferRequest")(model_name="credit_risk")
GOOD.inputs.add(name="input", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend([1, 2, 3, 4])


def request_headers(path: str = PATH, **more: str) -> list[tuple[str, str]]:
    fixed = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("te", "trailers"),
    ]
    return [
        *fixed,
        ("content-type", "application/grpc"),
        *((k.replace("_", "-"), v) for k, v in more.items()),
    ]


class Peer:
    """An HTTP/2 client that says exactly what it is told to."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.encoder, self.decoder = Encoder(), Decoder()
        connection.sendall(frames.PREFACE + frames.settings({}))

    def send(self, *parts: bytes) -> None:
        self.connection.sendall(b"".join(parts))

    def headers(self, stream: int, path: str = PATH, flags: int = frames.END_HEADERS, **more: str) -> bytes:
        return frames.frame(frames.HEADERS, flags, stream, self.encoder.encode(request_headers(path, **more)))

    def message(self, stream: int, payload: bytes = b"", *, flags: int = frames.END_STREAM) -> bytes:
        payload = payload or GOOD.SerializeToString()
        return frames.frame(frames.DATA, flags, stream, struct.pack(">BL", 0, len(payload)) + payload)

    def read(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Frames until the pod closes."""
        buffer = b""
        while True:
            while len(buffer) >= 9:
                length = int.from_bytes(buffer[:3], "big")
                if len(buffer) < 9 + length:
                    break
                yield buffer[3], buffer[4], int.from_bytes(buffer[5:9], "big"), buffer[9 : 9 + length]
                buffer = buffer[9 + length :]
            data = self.connection.recv(65536)
            if not data:
                return
            buffer += data

    def status(self, stream: int) -> tuple[int, str]:
        """The grpc-status and message that end a stream."""
        for kind, flags, number, payload in self.read():
            if kind == frames.HEADERS:
                found = {str(k): str(v) for k, v in self.decoder.decode(payload)}
                if number == stream and flags & frames.END_STREAM:
                    return int(found["grpc-status"]), found.get("grpc-message", "")
        raise AssertionError("the pod closed the connection")

    def goodbye(self) -> int:
        """The error code of the GOAWAY that ends the connection."""
        for kind, _, _, payload in self.read():
            if kind == frames.GOAWAY:
                return int.from_bytes(payload[4:8], "big")
        raise AssertionError("no GOAWAY")


@pytest.fixture
def peer(pod: RunningPod) -> Iterator[Peer]:
    with pod.connect() as connection:
        yield Peer(connection)
    with pod.connect() as connection:
        again = Peer(connection)
        again.send(again.headers(1), again.message(1))
        assert again.status(1)[0] == 0, "the pod serves on"


def test_a_request_cut_into_single_bytes_is_answered(pod: RunningPod) -> None:
    with pod.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sender = Peer.__new__(Peer)
        sender.connection, sender.encoder, sender.decoder = connection, Encoder(), Decoder()
        for byte in frames.PREFACE + frames.settings({}) + sender.headers(1) + sender.message(1):
            connection.sendall(bytes([byte]))
        assert sender.status(1)[0] == 0


def test_a_message_over_the_limit_is_resource_exhausted(peer: Peer) -> None:
    prefix = struct.pack(">BL", 0, 2**31)
    peer.send(peer.headers(1), frames.frame(frames.DATA, 0, 1, prefix))
    assert peer.status(1)[0] == 8


def test_a_message_cut_short_is_an_invalid_argument(peer: Peer) -> None:
    peer.send(
        peer.headers(1), frames.frame(frames.DATA, frames.END_STREAM, 1, struct.pack(">BL", 0, 50) + b"x")
    )
    assert peer.status(1)[0] == 3


def test_no_message_two_messages_and_noise_are_invalid_arguments(peer: Peer) -> None:
    peer.send(peer.headers(1, flags=frames.END_HEADERS | frames.END_STREAM))
    assert peer.status(1)[0] == 3
    peer.send(peer.headers(3), peer.message(3, b"\xff\xff\xff\xff"))
    assert peer.status(3)[0] == 3


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.pod.connections._ARRIVAL_SECONDS", 0.2)


RESOURCE_EXHAUSTED = 8


@pytest.mark.parametrize("sent", ["nothing", "half a message"])
def test_a_message_that_arrives_too_slowly_ends_its_call_alone(
    peer: Peer, impatient: None, sent: str
) -> None:
    half = frames.frame(frames.DATA, 0, 1, struct.pack(">BL", 0, 100) + b"x" * 50)
    peer.send(peer.headers(1), half if sent == "half a message" else b"")
    code, words = peer.status(1)
    assert code == RESOURCE_EXHAUSTED
    assert "to%20arrive" in words or "to arrive" in words
    peer.send(peer.headers(3), peer.message(3))
    assert peer.status(3)[0] == 0


def test_a_call_that_waits_for_its_model_is_not_taken_for_a_slow_one(
    peer: Peer, impatient: None, pod: RunningPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model,) = pod.pod.repository.models
    monkeypatch.setattr(model, "timeout_seconds", 10.0)
    monkeypatch.setattr(model, "_faults", Faults(random.Random(0), delay_seconds=1.5))
    peer.send(peer.headers(1), peer.message(1))
    assert peer.status(1)[0] == 0


def test_a_stream_may_be_opened_long_before_its_first_message(peer: Peer, impatient: None) -> None:
    peer.send(peer.headers(1, PATH.replace("ModelInfer", "ModelStreamInfer")))
    time.sleep(1.3)  # a sweep and more
    peer.send(peer.message(1))
    assert peer.status(1)[0] == 0


@pytest.mark.parametrize("part", ["frame", "header block"])
def test_a_frame_or_header_block_that_never_ends_ends_the_connection(
    peer: Peer, impatient: None, part: str
) -> None:
    whole = peer.headers(1, flags=0)
    peer.send(whole if part == "header block" else whole[:-3])
    assert peer.goodbye() == frames.ENHANCE_YOUR_CALM


def test_an_unknown_method_or_content_type_is_unimplemented(peer: Peer) -> None:
    peer.send(peer.headers(1, path="/inference.GRPCInferenceService/Nope"), peer.message(1))
    code, words = peer.status(1)
    assert code == 12
    assert "ModelInfer" in words


def rest(peer: Peer, stream: int, path: str, flags: int = frames.END_HEADERS, **more: str) -> bytes:
    fields = [(n, v) for n, v in request_headers(path, **more) if n not in ("te", "content-type")]
    return frames.frame(frames.HEADERS, flags, stream, peer.encoder.encode(fields))


def rest_answer(peer: Peer) -> tuple[str, bytes]:
    """Status and body of the only answer on this connection."""
    status, body = "", b""
    for kind, flags, _, payload in peer.read():
        if kind == frames.HEADERS:
            status = {str(k): str(v) for k, v in peer.decoder.decode(payload)}[":status"]
        elif kind == frames.DATA:
            body += payload
        if kind in (frames.HEADERS, frames.DATA) and flags & frames.END_STREAM:
            return status, body
    raise AssertionError("the pod closed the connection")


@pytest.mark.parametrize("path", ["/v2/models/credit_risk/infer", PATH])
def test_what_is_not_grpc_gets_an_http_error_not_a_200(peer: Peer, path: str) -> None:
    peer.send(rest(peer, 1, path), frames.frame(frames.DATA, frames.END_STREAM, 1, b"{}"))
    status, body = rest_answer(peer)
    assert status == ("400" if path.endswith("/infer") else "404")
    assert b"error" in body


def test_a_body_that_comes_in_pieces_is_read_as_one(peer: Peer) -> None:
    body = b'{"inputs":[{"name":"input","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'
    peer.send(rest(peer, 1, "/v2/models/credit_risk/infer"))
    for at in range(0, len(body), 7):
        peer.send(frames.frame(frames.DATA, 0, 1, body[at : at + 7]))
    peer.send(frames.frame(frames.DATA, frames.END_STREAM, 1))
    status, answer = rest_answer(peer)
    assert (status, b"probabilities" in answer) == ("200", True)


def test_a_body_over_the_limit_is_413_over_http2_too(peer: Peer) -> None:
    # The pod of these tests takes 1 MiB.
    peer.send(rest(peer, 1, "/v2/models/credit_risk/infer"))
    for _ in range(3):
        peer.send(frames.frame(frames.DATA, 0, 1, b" " * 400_000))
    assert rest_answer(peer)[0] == "413"


def test_a_caller_that_resets_its_request_is_answered_nothing(peer: Peer) -> None:
    body = b'{"inputs":[{"name":"input","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'
    path = "/v2/models/credit_risk/infer"
    gone = frames.frame(frames.RST_STREAM, 0, 1, struct.pack(">L", frames.CANCEL))
    peer.send(rest(peer, 1, path), frames.frame(frames.DATA, frames.END_STREAM, 1, body), gone)
    peer.send(rest(peer, 3, path), frames.frame(frames.DATA, frames.END_STREAM, 3, body))
    answered = set()
    for kind, flags, number, _ in peer.read():
        if kind in (frames.HEADERS, frames.DATA):
            answered.add(number)
            if flags & frames.END_STREAM:
                break
    assert answered == {3}


def test_a_head_request_has_no_body_over_http2(peer: Peer) -> None:
    peer.send(
        frames.frame(
            frames.HEADERS,
            frames.END_HEADERS | frames.END_STREAM,
            1,
            peer.encoder.encode(
                [(":method", "HEAD"), (":scheme", "http"), (":path", "/v2"), (":authority", "x")]
            ),
        )
    )
    assert rest_answer(peer) == ("200", b"")


def test_an_unknown_model_is_not_found(peer: Peer) -> None:
    peer.send(
        peer.headers(1),
        peer.message(1, messages.message("ModelInferRequest")(model_name="x").SerializeToString()),
    )
    assert peer.status(1)[0] == 5


def test_an_unknown_compression_is_unimplemented(peer: Peer) -> None:
    body = struct.pack(">BL", 1, 3) + b"abc"
    peer.send(peer.headers(1, grpc_encoding="zstd"), frames.frame(frames.DATA, frames.END_STREAM, 1, body))
    assert peer.status(1)[0] == 12
    peer.send(peer.headers(3, grpc_encoding="gzip"), frames.frame(frames.DATA, frames.END_STREAM, 3, body))
    assert peer.status(3)[0] == 3


@pytest.mark.parametrize("named", [{}, {"grpc_encoding": "identity"}], ids=["unnamed", "identity"])
def test_a_message_called_compressed_by_nothing_is_an_invalid_argument(peer: Peer, named: Any) -> None:
    body = struct.pack(">BL", 1, 3) + b"abc"
    peer.send(peer.headers(1, **named), frames.frame(frames.DATA, frames.END_STREAM, 1, body))
    assert peer.status(1)[0] == 3


def test_a_stream_reset_in_mid_batch_harms_nobody(peer: Peer) -> None:
    for stream in range(1, 400, 4):
        peer.send(peer.headers(stream), peer.message(stream), frames.reset(stream, frames.CANCEL))
        peer.send(peer.headers(stream + 2), peer.message(stream + 2))
    assert peer.status(399)[0] == 0


def test_answers_wait_for_the_window_the_client_grants(pod: RunningPod) -> None:
    with pod.connect() as connection:
        peer = Peer(connection)
        peer.send(frames.settings({frames.SETTING_INITIAL_WINDOW: 10}), peer.headers(1), peer.message(1))
        received = b""
        for kind, flags, number, payload in peer.read():
            if kind == frames.DATA:
                assert len(payload) <= 10
                received += payload
                peer.send(frames.window_update(number, len(payload)))
            if kind == frames.HEADERS and flags & frames.END_STREAM:
                break
        answer = messages.message("ModelInferResponse").FromString(received[5:])
        assert [output.name for output in answer.outputs] == ["label", "probabilities"]


BREAKING: dict[str, tuple[Any, int]] = {
    "an even stream": (lambda p: p.headers(2), frames.PROTOCOL_ERROR),
    "data before headers": (lambda p: p.message(1), frames.PROTOCOL_ERROR),
    "a frame over the limit": (
        lambda p: struct.pack(">HBBBL", 0xFFFF, 0xFF, 0, 0, 1),
        frames.FRAME_SIZE_ERROR,
    ),
    "padding longer than the frame": (
        lambda p: p.headers(1) + frames.frame(frames.DATA, frames.PADDED, 1, b"\xffab"),
        frames.PROTOCOL_ERROR,
    ),
    "a header block left open": (lambda p: p.headers(1, flags=0) + p.message(1), frames.PROTOCOL_ERROR),
    "a continuation of nothing": (
        lambda p: frames.frame(frames.CONTINUATION, 4, 1, b""),
        frames.PROTOCOL_ERROR,
    ),
    "a continuation flood": (
        lambda p: p.headers(1, flags=0) + frames.frame(frames.CONTINUATION, 0, 1, b"") * 50,
        frames.ENHANCE_YOUR_CALM,
    ),
    "a header bomb": (lambda p: p.headers(1, flags=0, x_long="y" * 60_000), frames.ENHANCE_YOUR_CALM),
    "headers nobody can decode": (
        lambda p: frames.frame(frames.HEADERS, 4, 1, b"\xff\xff\xff\xff"),
        frames.COMPRESSION_ERROR,
    ),
    "a push": (lambda p: frames.frame(frames.PUSH_PROMISE, 4, 1, b"\0\0\0\2"), frames.PROTOCOL_ERROR),
    "a short window update": (
        lambda p: frames.frame(frames.WINDOW_UPDATE, 0, 0, b"\0"),
        frames.FRAME_SIZE_ERROR,
    ),
    "a window update of nothing": (lambda p: frames.window_update(0, 0), frames.PROTOCOL_ERROR),
    "a window beyond all bounds": (
        lambda p: frames.window_update(0, frames.MAX_WINDOW),
        frames.FLOW_CONTROL_ERROR,
    ),
    "half a setting": (lambda p: frames.frame(frames.SETTINGS, 0, 0, b"\0\4\0"), frames.FRAME_SIZE_ERROR),
    "an impossible setting": (
        lambda p: frames.settings({frames.SETTING_MAX_FRAME: 5}),
        frames.PROTOCOL_ERROR,
    ),
    "a ping flood": (lambda p: frames.frame(frames.PING, 0, 0, b"12345678") * 5000, frames.ENHANCE_YOUR_CALM),
    "a reset flood": (
        lambda p: b"".join(p.headers(n) + frames.reset(n, 8) for n in range(1, 10_001, 2)),
        frames.ENHANCE_YOUR_CALM,
    ),
}


@pytest.mark.parametrize("name", BREAKING)
def test_a_broken_protocol_ends_the_connection_with_the_right_code(peer: Peer, name: str) -> None:
    make, code = BREAKING[name]
    peer.send(make(peer))
    assert peer.goodbye() == code


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=40)),
        max_size=8,
    )
)
def test_any_frames_at_all_leave_the_pod_serving(
    pod: RunningPod, script: list[tuple[int, int, int, bytes]]
) -> None:
    with pod.connect() as connection:
        peer = Peer(connection)
        peer.send(*[frames.frame(*parts) for parts in script])
    assert pod.http.get("/v2/health/live").status_code == 200


def test_a_wrong_preface_is_refused(pod: RunningPod) -> None:
    with pod.connect() as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + b"\0" * 20)
        assert connection.recv(65536)
        while connection.recv(65536):
            pass


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from([b"a", b":path", b"x-long-name"]), st.binary(max_size=8)), max_size=4
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_remembered_header_blocks_always_mean_what_they_say(
    blocks: list[list[tuple[bytes, bytes]]], huffman: bool
) -> None:
    encoder, reader = Encoder(), HeaderReader()
    for fields in blocks * 2:
        assert reader.read(encoder.encode(fields, huffman=huffman)) == dict(fields)
        assert reader.read(literal_block(fields)) == dict(fields)


def test_a_remembered_block_is_forgotten_when_the_table_it_points_into_changes() -> None:
    encoder, reader = Encoder(), HeaderReader()
    script = [[(b"a", b"1")], [(b"a", b"1")], [(b"b", b"2")], [(b"b", b"2")], [(b"a", b"1")]]
    blocks = [encoder.encode(fields) for fields in script]
    assert blocks[1] == blocks[3], "the same byte points at different fields"
    assert [reader.read(block) for block in blocks] == [dict(fields) for fields in script]

"""Callers of one pod, each within every limit of its own, together hold all there is, or keep it busy."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from serving.pod.grpc import frames
from serving.pod.held import BODIES
from tests.bundles import make_bundle, mlp
from tests.pods import RunningPod, running_pod
from tests.unit.serving.pod.test_grpc_wire import Peer

MOST, PART = 1 << 20, 60 << 10
CALLERS = 140
# As many parts as the pod keeps; 140 streams of 4 MB passed its 256 MB.
ROOM = BODIES * MOST // PART


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[RunningPod]:
    with running_pod(make_bundle(tmp_path, mlp()), max_body_bytes=MOST) as running:
        yield running


def row() -> dict[str, object]:
    return {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


def test_streams_of_several_connections_share_what_a_pod_holds(pod: RunningPod) -> None:
    with ExitStack() as opened:
        peers = [Peer(opened.enter_context(pod.connect())) for _ in range(10)]
        for number in range(1, 2 * CALLERS // len(peers), 2):
            for peer in peers:
                begun = struct.pack(">BL", 0, MOST) + bytes(PART)
                pieces = [begun[at : at + 16_384] for at in range(0, len(begun), 16_384)]
                peer.send(
                    peer.headers(number), *(frames.frame(frames.DATA, 0, number, one) for one in pieces)
                )
        refused = sum(map(_refusals, peers))
        assert refused >= CALLERS - ROOM - 1
        assert pod.infer(row()).status_code == 200
    # What they held is free again once they have gone.
    big = {"inputs": [{"name": "input", "shape": [20_000, 4], "datatype": "FP32", "data": [1.5] * 80_000}]}
    assert pod.infer(big).status_code != 429


def _refusals(peer: Peer) -> int:
    """Among the answers to what was sent so far."""
    found = 0
    peer.send(frames.frame(frames.PING, 0, 0, b"12345678"))
    for kind, flags, _, payload in peer.read():
        if kind == frames.PING:
            return found
        if kind == frames.HEADERS and flags & frames.END_STREAM:
            said = {str(name): str(value) for name, value in peer.decoder.decode(payload)}
            found += said.get("grpc-status") == "8"
    raise AssertionError("the pod closed the connection")


def test_bodies_of_many_connections_share_it_too(pod: RunningPod) -> None:
    head = f"POST /v2/models/credit_risk/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {MOST}\r\n\r\n".encode()
    with ExitStack() as opened:
        callers = [opened.enter_context(pod.connect()) for _ in range(CALLERS)]
        for each in callers:
            each.sendall(head + b"[" + bytes(PART))
        refused = [_answer(each) for each in callers]
        assert sum(b" 429 " in one for one in refused) >= CALLERS - ROOM - 1
        assert pod.infer(row()).status_code == 200


def _answer(caller: socket.socket) -> bytes:
    caller.settimeout(0.1)
    try:
        return caller.recv(1000)
    except TimeoutError:
        return b""


def test_requests_that_wait_behind_another_are_counted(pod: RunningPod) -> None:
    """64 of the largest bodies could wait on one connection."""
    body = b'{"inputs": [' + b" " * (MOST - 200)
    head = f"POST /v2/models/nobody/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with pod.connect() as caller:
        for _ in range(3):
            caller.sendall(head + body)
        answers = b""
        while answers.count(b"HTTP/1.1 404") < 3:
            answers += caller.recv(65_536)
    assert pod.infer(row()).status_code == 200


FLOODS = {
    "window updates": lambda peer: frames.window_update(0, 1) * 5000,
    "empty data": lambda peer: peer.headers(1) + frames.frame(frames.DATA, 0, 1, b"") * 5000,
    "a byte at a time": lambda peer: peer.headers(1) + frames.frame(frames.DATA, 0, 1, b"\0") * 5000,
}


@pytest.mark.parametrize("flood", FLOODS)
def test_frames_that_bring_nothing_end_their_connection(pod: RunningPod, flood: str) -> None:
    with pod.connect() as connection:
        peer = Peer(connection)
        peer.send(FLOODS[flood](peer))
        assert peer.goodbye() == frames.ENHANCE_YOUR_CALM
    assert pod.infer(row()).status_code == 200


def test_window_updates_beside_answers_are_how_clients_work(pod: RunningPod) -> None:
    with pod.connect() as connection:
        peer = Peer(connection)
        ended, asked = 0, 0
        for kind, flags, _, _ in peer.read():
            ended += kind == frames.HEADERS and bool(flags & frames.END_STREAM)
            if ended == 1500:
                break
            while asked < min(ended + 20, 1500):
                number, asked = 2 * asked + 1, asked + 1
                widened = frames.window_update(0, 1000) + frames.window_update(number, 1000)
                peer.send(peer.headers(number), widened, peer.message(number))
        assert ended == 1500

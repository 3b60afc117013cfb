"""Clients of gRPC that close their half: they get what they asked for, and hold nothing of the pod's."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

from serving.pod.faults import Faults
from serving.pod.grpc import frames
from tests.pods import RunningPod
from tests.unit.serving.pod.held_engine import eventually
from tests.unit.serving.pod.test_grpc_streams import STREAM_PATH
from tests.unit.serving.pod.test_grpc_wire import PATH, Peer


@pytest.fixture
def peer(pod: RunningPod) -> Iterator[Peer]:
    with pod.connect() as connection:
        yield Peer(connection)


def is_forgotten(pod: RunningPod, peer: Peer) -> bool:
    own = peer.connection.getsockname()
    return all(
        connection.transport.get_extra_info("peername") != own
        for connection in list(pod.pod.front._connections)
    )


@pytest.mark.parametrize("path", [PATH, STREAM_PATH], ids=["unary", "streamed"])
@pytest.mark.parametrize("flags", [0, frames.END_STREAM], ids=["open", "ended"])
def test_who_closes_their_half_gets_the_answer_and_an_end(
    pod: RunningPod, peer: Peer, monkeypatch: pytest.MonkeyPatch, path: str, flags: int
) -> None:
    (model,) = pod.pod.repository.models
    monkeypatch.setattr(model, "_faults", Faults(random.Random(0), delay_seconds=0.2))
    peer.send(peer.headers(1, path), peer.message(1, flags=flags))
    peer.connection.shutdown(socket.SHUT_WR)
    found = list(peer.read())
    assert [kind for kind, _, number, _ in found if number == 1][:3] == [
        frames.HEADERS,
        frames.DATA,
        frames.HEADERS,
    ]
    assert eventually(lambda: is_forgotten(pod, peer))


@pytest.mark.parametrize("asks", ["nothing", "half a message", "more than the window takes"])
def test_a_client_that_ends_within_a_call_leaves_no_connection_behind(
    pod: RunningPod, peer: Peer, asks: str
) -> None:
    opened = peer.headers(1, STREAM_PATH)
    if asks == "half a message":
        opened += peer.message(1)[:-4]
    elif asks == "more than the window takes":
        opened = frames.settings({frames.SETTING_INITIAL_WINDOW: 0}) + opened + peer.message(1)
    peer.send(opened)
    # The answer's headers, where there is an answer, come last of all that can.
    last = frames.HEADERS if asks == "more than the window takes" else frames.SETTINGS
    assert any(kind == last for kind, *_ in peer.read())
    peer.connection.shutdown(socket.SHUT_WR)
    assert eventually(lambda: is_forgotten(pod, peer))

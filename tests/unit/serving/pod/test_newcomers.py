"""Who is let in while the pod leaves is answered once, and told to go elsewhere."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.pod.grpc import frames
from serving.pod.pod import _close_port
from tests.pods import RunningPod, running_pod
from tests.unit.serving.pod.held_engine import eventually
from tests.unit.serving.pod.test_grpc_wire import Peer


@pytest.fixture
def own_pod(mlp_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningPod]:
    # Long, for a machine that stands still meanwhile; whoever asks ends it.
    monkeypatch.setattr("serving.pod.pod._FIRST_REQUEST_SECONDS", 10.0)
    with running_pod(mlp_bundle) as running:
        yield running


def let_in_last(pod: RunningPod) -> socket.socket:
    """A connection on which nothing is said before the pod has stopped to accept."""
    connection = pod.connect()
    assert eventually(lambda: pod.pod.front.connections > 0)
    pod.loop.call_soon_threadsafe(pod.pod.stop)
    assert eventually(lambda: refuses(pod))
    return connection


def refuses(pod: RunningPod) -> bool:
    try:
        pod.connect().close()
    except OSError:
        return True
    return False


def test_a_connection_made_before_the_port_closed_may_ask_once(own_pod: RunningPod) -> None:
    with let_in_last(own_pod) as connection, connection.makefile("rb") as lines:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = lines.read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer


def test_a_grpc_connection_made_before_the_port_closed_may_ask_once(own_pod: RunningPod) -> None:
    with let_in_last(own_pod) as connection:
        peer = Peer(connection)
        peer.send(peer.headers(1), peer.message(1))
        found = []
        for kind, _, number, payload in peer.read():
            found.append((kind, number))
            if kind == frames.PING:
                # As every client does. The pod would wait its whole time for one that may not have heard.
                peer.send(frames.pong(payload))
    assert frames.GOAWAY in [kind for kind, _ in found]
    assert [kind for kind, number in found if number == 1][-1] == frames.HEADERS


def test_who_waits_to_be_let_in_when_the_port_closes_is_answered(
    own_pod: RunningPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, callers = _close_port, []

    def close_port(server: asyncio.Server) -> list[socket.socket]:
        # On the loop's thread, so that the loop cannot take them before.
        for _ in range(5):
            callers.append(own_pod.connect())
            callers[-1].sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        return honest(server)

    monkeypatch.setattr("serving.pod.pod._close_port", close_port)
    own_pod.stop()
    assert len(callers) == 5
    for caller in callers:
        with caller, caller.makefile("rb") as lines:
            assert lines.read().startswith(b"HTTP/1.1 200")

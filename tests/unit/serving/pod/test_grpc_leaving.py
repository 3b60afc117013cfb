"""A pod that leaves: no call that it heard is lost, and of the others their clients know."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.pod.grpc import frames
from serving.pod.grpc.stream import Stream
from tests.bundles import elementwise, make_bundle
from tests.pods import RunningPod, running_pod
from tests.unit.serving.pod.held_engine import eventually
from tests.unit.serving.pod.test_grpc_wire import Peer

COLUMNS, MANY = 64, 4000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """credit_risk: x [N, 64] to itself, so that answers are as large as what was asked."""
    folder = tmp_path_factory.mktemp("echo")
    return make_bundle(folder, elementwise(shape=("N", COLUMNS)), serving={"stochastic": True})


@pytest.fixture
def pod(bundle: Path) -> Iterator[RunningPod]:
    with running_pod(bundle) as running:
        yield running


def message(rows: int) -> Any:
    asked = service_pb2.ModelInferRequest(model_name="credit_risk")
    asked.inputs.add(name="x", datatype="FP32", shape=[rows, COLUMNS])
    asked.raw_input_contents.append(np.ones((rows, COLUMNS), np.float32).tobytes())
    return asked


def leave(pod: RunningPod) -> threading.Thread:
    stopping = threading.Thread(target=pod.stop)
    stopping.start()
    assert eventually(lambda: pod.pod.front.is_draining)
    return stopping


def last_stream(payload: bytes) -> int:
    return int.from_bytes(payload[:4], "big")


def next_of(seen: Iterator[tuple[int, int, int, bytes]], kind: int) -> tuple[int, int, bytes]:
    """Flags, stream and payload of the next frame of this kind."""
    return next((flags, number, payload) for found, flags, number, payload in seen if found == kind)


@pytest.mark.parametrize("rows", [1, MANY], ids=["small", "large"])
def test_an_answer_that_was_just_given_is_not_lost_when_the_pod_closes(
    pod: RunningPod, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    reply = Stream.reply

    def reply_and_close(self: Stream, *given: Any) -> None:
        reply(self, *given)
        # As a drain does that looks in this very turn of the loop.
        pod.pod.front.close_idle()

    monkeypatch.setattr(Stream, "reply", reply_and_close)
    with grpc.insecure_channel(f"127.0.0.1:{pod.port}", options=[("grpc.enable_retries", 0)]) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message(rows))
    assert list(answer.outputs[0].shape) == [rows, COLUMNS]


def test_what_a_client_says_while_it_reads_the_last_answer_does_not_reset_it(
    pod: RunningPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long, for a machine that stands still meanwhile; the client ends it.
    monkeypatch.setattr("serving.pod.pod._LAST_ANSWER_SECONDS", 10.0)
    with socket.socket() as connection:
        # Most of the answer stays on the pod's side until it is read.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", pod.port))
        peer = Peer(connection)
        wide = frames.settings({frames.SETTING_INITIAL_WINDOW: frames.MAX_WINDOW})
        peer.send(wide, frames.window_update(0, 2**24), peer.headers(1))
        peer.send(peer.message(1, message(MANY // 10).SerializeToString()))
        (model,) = pod.pod.repository.models
        assert eventually(lambda: model.metrics.codes[200] == 1)
        stopping = leave(pod)
        assert eventually(lambda: all(one._is_closing for one in pod.pod.front._connections))
        size, ended = 0, False
        for kind, flags, number, payload in peer.read():
            if kind == frames.DATA:
                peer.send(frames.frame(frames.PING, 0, 0, b"reading!"))
                size += len(payload)
            ended = ended or (kind == frames.HEADERS and number == 1 and bool(flags & frames.END_STREAM))
        assert size > MANY // 10 * COLUMNS * 4
        assert ended
    stopping.join()


def test_calls_are_answered_until_their_client_has_heard_and_then_the_last_is_named(pod: RunningPod) -> None:
    with pod.connect() as connection:
        peer = Peer(connection)
        seen = peer.read()
        peer.send(peer.headers(1), peer.message(1, message(1).SerializeToString()))
        assert next_of(seen, frames.HEADERS)[1] == 1
        stopping = leave(pod)
        assert last_stream(next_of(seen, frames.GOAWAY)[2]) == frames.MAX_WINDOW
        ping = next_of(seen, frames.PING)[2]
        # This one was on its way.
        peer.send(peer.headers(3), peer.message(3, message(1).SerializeToString()))
        assert next_of(seen, frames.HEADERS)[1] == 3
        peer.send(frames.frame(frames.PING, frames.ACK, 0, ping))
        assert last_stream(next_of(seen, frames.GOAWAY)[2]) == 3
        assert list(seen) == [], "the pod has closed its half"
    stopping.join()


def test_a_client_that_never_answers_the_ping_does_not_keep_the_pod(pod: RunningPod) -> None:
    with pod.connect() as connection:
        peer = Peer(connection)
        peer.send(peer.headers(1), peer.message(1, message(1).SerializeToString()))
        seen = peer.read()
        assert next_of(seen, frames.HEADERS)[1] == 1
        stopping = leave(pod)
        assert [last_stream(payload) for kind, _, _, payload in seen if kind == frames.GOAWAY] == [
            frames.MAX_WINDOW,
            1,
        ]
    stopping.join()

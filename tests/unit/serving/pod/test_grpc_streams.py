"""ModelStreamInfer, and what comes with a call beside its message: keys, urgency, ids, a leaving pod."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.pod.call import Call
from serving.pod.grpc import frames, messages
from tests.bundles import make_bundle, mlp
from tests.pods import RunningPod, running_pod
from tests.unit.serving.pod.test_grpc_wire import GOOD, PATH, Peer

STREAM_PATH = PATH.replace("ModelInfer", "ModelStreamInfer")


def message(request_id: str = "", *, name: str = "input", model: str = "credit_risk") -> Any:
    asked = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    asked.inputs.add(name=name, datatype="FP32", shape=[1, 4])
    asked.raw_input_contents.append(np.array([1, 2, 3, 4], np.float32).tobytes())
    return asked


def connected(pod: RunningPod) -> Any:
    return grpc.insecure_channel(f"127.0.0.1:{pod.port}")


@pytest.fixture
def stub(pod: RunningPod) -> Iterator[Any]:
    with connected(pod) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


class OpenStream:
    """A stream that its client keeps open: it ends when the pod ends it."""

    def __init__(self, stub: Any, **options: Any) -> None:
        self._asked: queue.Queue[Any] = queue.Queue()
        self.answers = stub.ModelStreamInfer(iter(self._asked.get, None), timeout=20, **options)

    def ask(self, asked: Any) -> None:
        self._asked.put(asked)

    def end(self) -> grpc.RpcError:
        """How the pod ended it, with nothing more to say."""
        with pytest.raises(grpc.RpcError) as ended:
            next(self.answers)
        return ended.value


def refused(pod: RunningPod) -> float:
    """Requests of the model that were answered 400."""
    lines = pod.http.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("slipway_requests_total") and 'code="400"' in line]
    return sum(float(line.split()[-1]) for line in found)


# Whose error it is


def unknown_priority(request_id: str) -> Any:
    asked = message(request_id)
    asked.parameters["priority"].string_param = "soon"
    return asked


def test_an_error_in_a_stream_has_its_requests_id(stub: Any) -> None:
    asked = [message("wrong", name="nope"), message("unknown", model="nope"), unknown_priority("urgent")]
    answers = list(stub.ModelStreamInfer(iter([*asked, message("right")])))
    assert {a.infer_response.id: bool(a.error_message) for a in answers} == {
        "wrong": True, "unknown": True, "urgent": True, "right": False,
    }  # fmt: skip


def test_noise_in_a_stream_is_an_error_without_an_id(pod: RunningPod) -> None:
    with pod.connect() as connection:
        peer = Peer(connection)
        peer.send(peer.headers(1, STREAM_PATH), peer.message(1, b"\xff\xff\xff\xff"))
        (answer,) = stream_answers(peer)
        assert (answer.infer_response.id, bool(answer.error_message)) == ("", True)


def stream_answers(peer: Peer) -> list[Any]:
    """All answers of stream 1, each in a frame of its own, until its trailers."""
    found = []
    for kind, flags, _, payload in peer.read():
        if kind == frames.DATA:
            found.append(messages.message("ModelStreamInferResponse").FromString(payload[5:]))
        if kind == frames.HEADERS and flags & frames.END_STREAM:
            assert peer.decoder.decode(payload)[-1][0] == "grpc-status", "nothing follows the trailers"
            return found
    raise AssertionError("the stream did not end")


def test_all_messages_of_the_frame_that_ends_a_stream_are_answered(tmp_path: Path) -> None:
    with running_pod(make_bundle(tmp_path, mlp(), serving={"cache": {}})) as running:
        with connected(running) as channel:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message())
        with running.connect() as connection:
            peer = Peer(connection)
            # The answers are in memory, so each is there before the next message is looked at.
            one = peer.message(1, GOOD.SerializeToString())[frames.HEAD_BYTES :]
            last = frames.frame(frames.DATA, frames.END_STREAM, 1, one * 3)
            peer.send(peer.headers(1, STREAM_PATH), last)
            assert len(stream_answers(peer)) == 3


# Urgency


@pytest.fixture
def seen(pod: RunningPod, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The calls that reach the model."""
    (model,) = pod.pod.repository.models
    calls: list[Call] = []
    infer = model.infer

    def watched(call: Call) -> None:
        calls.append(call)
        infer(call)

    monkeypatch.setattr(model, "infer", watched)
    return calls


@pytest.mark.parametrize("header", ["x-envoy-expected-rq-timeout-ms", "x-slipway-timeout-ms"])
def test_each_header_shortens_a_unary_calls_time(stub: Any, seen: list[Call], header: str) -> None:
    stub.ModelInfer(message(), metadata=((header, "150"),))
    assert seen[0].timeout == 0.15


def test_a_streams_headers_hold_for_each_of_its_messages(stub: Any, seen: list[Call]) -> None:
    headers = (("x-slipway-priority", "low"), ("x-slipway-timeout-ms", "150"))
    list(stub.ModelStreamInfer(iter([message("1"), message("2")]), metadata=headers))
    assert [(call.priority, call.timeout) for call in seen] == [(2, 0.15), (2, 0.15)]


def test_the_time_a_whole_stream_has_is_no_messages_time(
    stub: Any, seen: list[Call], pod: RunningPod
) -> None:
    headers = (("x-envoy-expected-rq-timeout-ms", "150"),)
    assert list(stub.ModelStreamInfer(iter([message()]), metadata=headers, timeout=0.2))
    assert seen[0].timeout == pod.pod.repository.models[0].timeout_seconds


BAD_URGENCY = [
    ("x-slipway-priority", "soon"),
    ("x-slipway-timeout-ms", "-1"),
]


@pytest.mark.parametrize("header", [*BAD_URGENCY, ("x-envoy-expected-rq-timeout-ms", "nan")])
def test_a_unary_call_with_meaningless_urgency_is_refused_and_counted(
    stub: Any, pod: RunningPod, header: tuple[str, str]
) -> None:
    before = refused(pod)
    with pytest.raises(grpc.RpcError) as mistake:
        stub.ModelInfer(message(), metadata=(header,))
    assert mistake.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
    assert refused(pod) == before + 1


@pytest.mark.parametrize("header", BAD_URGENCY)
def test_a_message_with_meaningless_urgency_is_refused_and_counted(
    stub: Any, pod: RunningPod, header: tuple[str, str]
) -> None:
    before = refused(pod)
    (answer,) = stub.ModelStreamInfer(iter([message("mine")]), metadata=(header,))
    assert answer.infer_response.id == "mine"
    assert "is not" in answer.error_message
    assert refused(pod) == before + 1


# Request ids


def test_a_request_id_comes_back(stub: Any) -> None:
    mine = (("x-request-id", "abc"),)
    _, call = stub.ModelInfer.with_call(message(), metadata=mine)
    assert dict(call.initial_metadata())["x-request-id"] == "abc"
    answers = stub.ModelStreamInfer(iter([message()]), metadata=mine)
    assert dict(answers.initial_metadata())["x-request-id"] == "abc"
    with pytest.raises(grpc.RpcError) as mistake:
        stub.ModelInfer(message(name="nope"), metadata=mine)
    said: Any = mistake.value
    assert dict([*said.initial_metadata(), *said.trailing_metadata()])["x-request-id"] == "abc"


# A pod that leaves


def stop_in_background(pod: RunningPod) -> threading.Thread:
    stopping = threading.Thread(target=pod.stop)
    stopping.start()
    return stopping


@pytest.mark.parametrize("has_asked", [False, True])
def test_an_idle_stream_does_not_keep_a_leaving_pod(mlp_bundle: Path, has_asked: bool) -> None:
    with running_pod(mlp_bundle, drain_seconds=15) as running, connected(running) as channel:
        stream = OpenStream(service_pb2_grpc.GRPCInferenceServiceStub(channel))
        if has_asked:
            stream.ask(message("first"))
            assert next(stream.answers).infer_response.id == "first"
        else:
            expect_open(running)
        began = time.monotonic()
        stopping = stop_in_background(running)
        end: Any = stream.end()
        stopping.join()
        assert time.monotonic() - began < 5
        assert (end.code(), end.details()[:8]) == (grpc.StatusCode.UNAVAILABLE, "draining")


def test_a_leaving_pod_answers_what_a_stream_has_asked(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, mlp())
    slow = {"faults": "credit_risk@1:delay_ms=700", "drain_seconds": 15}
    with running_pod(bundle, **slow) as running, connected(running) as channel:
        stream = OpenStream(service_pb2_grpc.GRPCInferenceServiceStub(channel))
        for name in ("first", "second"):
            stream.ask(message(name))
        expect_open(running)
        (model,) = running.pod.repository.models
        while model.in_flight < 2:
            time.sleep(0.005)
        began = time.monotonic()
        stopping = stop_in_background(running)
        assert {next(stream.answers).infer_response.id for _ in range(2)} == {"first", "second"}
        end: Any = stream.end()
        stopping.join()
        assert time.monotonic() - began < 5
        assert end.code() is grpc.StatusCode.UNAVAILABLE


def test_a_stream_opened_on_a_leaving_pod_does_not_keep_it_either(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, mlp(), serving={"timeout_ms": 5000})
    slow = {"faults": "credit_risk@1:delay_ms=1500", "drain_seconds": 15}
    with (
        running_pod(bundle, **slow) as running,
        connected(running) as channel,
        running.connect() as connection,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        held = stub.ModelInfer.future(message())
        (model,) = running.pod.repository.models
        while not model.in_flight:
            time.sleep(0.005)
        peer = Peer(connection)
        peer.send(frames.frame(frames.PING, 0, 0, b"12345678"))
        next(kind for kind, _, _, _ in peer.read() if kind == frames.PING)
        began = time.monotonic()
        stopping = stop_in_background(running)
        while not running.pod.front.is_draining:
            time.sleep(0.005)
        peer.send(peer.headers(1, STREAM_PATH))
        code, words = peer.status(1)
        assert (code, words[:8]) == (14, "draining")
        held.result()
        stopping.join()
        assert time.monotonic() - began < 5


def expect_open(pod: RunningPod) -> None:
    """Wait until a stream's headers have arrived."""
    while pod.pod.front.is_quiet:
        time.sleep(0.005)

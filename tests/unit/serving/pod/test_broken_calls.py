"""Nobody waits for ever because the pod's own code broke on a call: neither its caller nor its neighbours."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from model_store.engines.errors import ModelFault
from serving.pod.cache.link import RedisLink
from serving.pod.call import BatchOutputs, Call
from serving.pod.fallback import RelayedCall
from serving.pod.faults import Faults
from serving.pod.grpc.stream import Stream
from serving.pod.model import ServedModel
from tests.pods import RunningPod
from tests.unit.serving.pod.calls import SIGNATURE, RememberedCall
from tests.unit.serving.pod.test_grpc_streams import message

NOBODY_LISTENS = "redis://127.0.0.1:1/0"
BROKEN = b"broken"


def breaks(*_: object) -> None:
    raise RuntimeError("it breaks")


# Look-ups


def found_of(*wanted: Any, breaking_client: bool = False) -> list[bytes | None]:
    """What `found` of each was told, in order; those given here are asked instead of one that remembers."""
    told: list[bytes | None] = []

    async def look_up() -> None:
        link = RedisLink(NOBODY_LISTENS, lambda: 0.0)
        if breaking_client:
            link._client.mget = breaks  # type: ignore[method-assign,assignment]
        for number, found in enumerate(wanted):
            assert link.look_up(b"%d" % number, found or told.append)
        await asyncio.gather(*link._tasks, return_exceptions=True)
        await link.close()

    asyncio.run(look_up())
    return told


def test_a_look_up_whose_asker_breaks_keeps_nobody_from_theirs() -> None:
    assert found_of(None, breaks, None) == [None, None]


def test_look_ups_that_break_in_the_client_are_misses() -> None:
    assert found_of(None, None, breaking_client=True) == [None, None]


# Relayed calls


def test_a_relayed_call_that_cannot_be_recorded_is_answered() -> None:
    original = RememberedCall([1, 2])
    with pytest.raises(RuntimeError):
        RelayedCall(original, SIGNATURE, breaks).answered(BatchOutputs([np.array([[3, 4.0]])], SIGNATURE), 0)
    assert original.values == [[3, 4]]


def test_a_relayed_call_whose_failure_cannot_be_recorded_fails() -> None:
    original, fault = RememberedCall([1, 2]), ModelFault("it failed")
    original.source = b"x-slipway-fallback: other\r\n"
    with pytest.raises(RuntimeError):
        RelayedCall(original, SIGNATURE, breaks).failed(fault)
    assert (original.error, original.source) == (fault, b"")


# gRPC


def break_record(patch: pytest.MonkeyPatch, pod: RunningPod) -> None:
    honest = ServedModel.record

    def record(self: ServedModel, call: Call, *given: Any) -> None:
        honest(self, call, *given)
        if call.headers.get(b"x-request-id") == BROKEN:
            raise RuntimeError("it cannot be recorded")

    patch.setattr(ServedModel, "record", record)


def break_record_of_failure(patch: pytest.MonkeyPatch, pod: RunningPod) -> None:
    (model,) = pod.pod.repository.models
    patch.setattr(model, "_faults", Faults(random.Random(0), error_rate=1.0))
    break_record(patch, pod)


def break_reply(patch: pytest.MonkeyPatch, pod: RunningPod) -> None:
    for name in ("reply", "send"):
        patch.setattr(Stream, name, breaking_for_one(getattr(Stream, name)))


def breaking_for_one(honest: Any) -> Any:
    def reply(self: Stream, *given: Any) -> None:
        if self.headers.get(b"x-request-id") == BROKEN:
            self.is_answered = True
            raise RuntimeError("it cannot be sent")
        honest(self, *given)

    return reply


def ask_once(stub: Any, **named: Any) -> None:
    stub.ModelInfer(message(), **named)


def ask_in_a_stream(stub: Any, **named: Any) -> None:
    list(stub.ModelStreamInfer(iter([message()]), **named))


@pytest.mark.parametrize("break_it", [break_record, break_record_of_failure, break_reply])
@pytest.mark.parametrize("ask", [ask_once, ask_in_a_stream])
def test_a_call_whose_answer_breaks_ends_as_internal(
    pod: RunningPod, stub: Any, monkeypatch: pytest.MonkeyPatch, break_it: Any, ask: Any
) -> None:
    named: dict[str, Any] = {"metadata": (("x-request-id", BROKEN.decode()),), "timeout": 20}
    with monkeypatch.context() as patch:
        break_it(patch, pod)
        with pytest.raises(grpc.RpcError) as ended:
            ask(stub, **named)
    assert ended.value.code() is grpc.StatusCode.INTERNAL  # type: ignore[attr-defined]
    # On the same connection.
    assert stub.ModelInfer(message(), timeout=20).model_name == "credit_risk"
    (model,) = pod.pod.repository.models
    assert model.in_flight == 0


def test_a_unary_method_whose_later_answer_breaks_ends_as_internal(
    pod: RunningPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: dict[str, Any] = {"metadata": (("x-request-id", BROKEN.decode()),), "timeout": 20}
    asked = service_pb2.RepositoryModelLoadRequest(model_name="credit_risk")
    break_reply(monkeypatch, pod)
    with (
        grpc.insecure_channel(f"127.0.0.1:{pod.management_port}") as channel,
        pytest.raises(grpc.RpcError) as ended,
    ):
        service_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryModelLoad(asked, **named)
    assert ended.value.code() is grpc.StatusCode.INTERNAL  # type: ignore[attr-defined]

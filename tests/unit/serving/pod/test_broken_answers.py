"""What a client is told whose answer the pod's own code breaks on, and hundreds answered in a row."""

from __future__ import annotations

from typing import Any

import pytest

from serving.pod.call import Call
from serving.pod.http.exchange import Exchange
from serving.pod.model import ServedModel
from tests.pods import RunningPod
from tests.unit.serving.pod.held_engine import busy, eventually, send
from tests.unit.serving.pod.test_callers_that_leave import expect_health, queued
from tests.unit.serving.pod.test_callers_that_leave import slow_pod as slow_pod


def test_hundreds_that_waited_for_a_slow_one_are_all_answered(slow_pod: RunningPod) -> None:
    health = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    last = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    with busy(slow_pod) as engine:
        client = send(slow_pod, 1)
        assert eventually(lambda: queued(slow_pod) == 1)
        client.sendall(health * 500 + last)
        engine.release()
        with client, client.makefile("rb") as lines:
            assert lines.read().count(b"HTTP/1.1 200") == 502
    expect_health(slow_pod)


@pytest.mark.parametrize("target", ["record", "record_failure"])
def test_a_connection_whose_answer_broke_is_told_so_and_closed(
    slow_pod: RunningPod, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    model = slow_pod.pod.repository.models[0]
    honest = getattr(ServedModel, target)

    def breaks(self: ServedModel, call: Call, *given: Any) -> None:
        honest(self, call, *given)
        if call.headers.get(b"x-request-id") == b"unrecordable":
            raise RuntimeError("cannot be recorded")

    with busy(slow_pod) as engine:
        monkeypatch.setattr(ServedModel, target, breaks)
        urgency = f"x-slipway-timeout-ms: {20_000 if target == 'record' else 1}"
        broken = send(slow_pod, 1, "x-request-id: unrecordable", urgency)
        assert eventually(lambda: model.in_flight == 2)
        engine.release()
        broken.settimeout(5)
        with broken, broken.makefile("rb") as lines:
            everything = lines.read()
    assert everything.startswith(b"HTTP/1.1 500")
    assert everything.count(b"HTTP/1.1") == 1
    assert b"connection: close" in everything
    expect_health(slow_pod)


@pytest.mark.parametrize("name", ["credit_risk", "unknown"], ids=["loaded", "refused"])
def test_a_load_whose_answer_broke_is_told_so_and_closed(
    slow_pod: RunningPod, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    honest = Exchange.reply

    def reply(self: Exchange, *given: Any, **named: Any) -> None:
        if self.headers.get(b"x-request-id") == b"unanswerable":
            raise RuntimeError("the answer cannot be sent")
        honest(self, *given, **named)

    monkeypatch.setattr(Exchange, "reply", reply)
    lines = [f"POST /v2/repository/models/{name}/load HTTP/1.1", "host: x", "x-request-id: unanswerable"]
    with slow_pod.connect(slow_pod.management_port) as client, client.makefile("rb") as answer:
        client.sendall("\r\n".join([*lines, "content-length: 0", "", ""]).encode())
        assert answer.read().startswith(b"HTTP/1.1 500")
    expect_health(slow_pod)

"""What becomes of everybody else when one call cannot be answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from serving.pod.http.exchange import Exchange
from serving.pod.patience import Patience
from tests.bundles import make_bundle
from tests.pods import RunningPod, running_pod
from tests.unit.serving.pod.calls import RememberedCall
from tests.unit.serving.pod.held_engine import answer, ask, busy, eventually, leave, send, slow_model
from tests.unit.serving.pod.test_batching import Delivery, batcher_of, call_of, settled


@pytest.fixture(scope="module")
def slow_pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPod]:
    serving = {"max_batch_size": 4, "timeout_ms": 20_000}
    with running_pod(make_bundle(tmp_path_factory.mktemp("slow"), slow_model(), serving=serving)) as pod:
        yield pod


def queued(pod: RunningPod) -> int:
    return pod.pod.repository.models[0].batcher.queued_rows


def in_flight(pod: RunningPod) -> int:
    return pod.pod.repository.models[0].in_flight


def expect_health(pod: RunningPod) -> None:
    """New requests are answered, and nothing is counted as under way that is not."""
    assert pod.infer(ask(100)).status_code == 200
    assert eventually(lambda: in_flight(pod) == 0)
    assert sum(pod.pod.repository.models[0].computing) == 0


@pytest.mark.parametrize("neighbour", [None, 2.0, 1.0], ids=["alone", "with another", "leading another"])
def test_a_caller_that_leaves_the_queue_takes_nobody_with_it(
    slow_pod: RunningPod, neighbour: float | None
) -> None:
    others = []
    with busy(slow_pod) as engine:
        leaver = send(slow_pod, 1)
        assert eventually(lambda: queued(slow_pod) == 1)
        if neighbour is not None:
            others.append(send(slow_pod, neighbour))
            assert eventually(lambda: in_flight(slow_pod) == 3)
        leave(leaver)
        # Answered only after the pod has heard of the reset.
        assert slow_pod.http.get("/v2/health/live").status_code == 200
        engine.release()
        assert [answer(other)[0] for other in others] == [200] * len(others)
    expect_health(slow_pod)


@pytest.fixture
def unanswerable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection of a request with this id breaks when it is answered, and the answer with it."""
    honest = Exchange.reply

    def reply(self: Exchange, *given: Any, **named: Any) -> None:
        if self.headers.get(b"x-request-id") == b"unanswerable":
            self.connection.transport.abort()
            raise RuntimeError("the answer cannot be sent")
        honest(self, *given, **named)

    monkeypatch.setattr(Exchange, "reply", reply)


@pytest.mark.usefixtures("unanswerable")
@pytest.mark.parametrize("timeout_ms", [20_000, 1], ids=["computed", "expired"])
def test_an_answer_that_cannot_be_given_keeps_nobody_from_theirs(
    slow_pod: RunningPod, timeout_ms: int
) -> None:
    with busy(slow_pod) as engine:
        urgency = f"x-slipway-timeout-ms: {timeout_ms}"
        broken = send(slow_pod, 1, "x-request-id: unanswerable", urgency)
        assert eventually(lambda: queued(slow_pod) == 1)
        follower, neighbour = send(slow_pod, 1), send(slow_pod, 2)
        assert eventually(lambda: in_flight(slow_pod) == 4)
        engine.release()
        assert [answer(follower)[0], answer(neighbour)[0]] == [200, 200]
        broken.close()
    expect_health(slow_pod)


@pytest.mark.usefixtures("unanswerable")
def test_a_follower_that_cannot_be_answered_keeps_nobody_from_theirs(slow_pod: RunningPod) -> None:
    with busy(slow_pod) as engine:
        leader = send(slow_pod, 1)
        assert eventually(lambda: queued(slow_pod) == 1)
        broken = send(slow_pod, 1, "x-request-id: unanswerable")
        assert eventually(lambda: in_flight(slow_pod) == 3)
        follower, neighbour = send(slow_pod, 1), send(slow_pod, 2)
        assert eventually(lambda: in_flight(slow_pod) == 5)
        engine.release()
        assert [answer(one)[0] for one in (leader, follower, neighbour)] == [200, 200, 200]
        broken.close()
    expect_health(slow_pod)


class Clumsy(Delivery):
    """Breaks on the first batch it is given, and on the first calls that died."""

    breaks = True

    def batch_done(self, *given: Any) -> None:
        super().batch_done(*given)
        self._break()

    def calls_died(self, calls: list[Any]) -> None:
        super().calls_died(calls)
        self._break()

    def _break(self) -> None:
        broke, self.breaks = self.breaks, False
        if broke:
            raise RuntimeError("this batch cannot be delivered")


class Waits(Patience):
    def seconds(self, queued_rows: int, finished_rows: int, now: float) -> float:
        return 0.0003


@pytest.mark.parametrize("patience", [Patience(0.0, 0.0, 0.0), Waits(0.001, 0.0, 0.0)])
@pytest.mark.parametrize("inline", [True, False], ids=["on the loop", "on a thread"])
@pytest.mark.parametrize("dead", ["none", "before", "behind"])
def test_a_batcher_goes_on_after_a_batch_it_could_not_deliver(
    patience: Patience, dead: str, *, inline: bool
) -> None:
    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        batcher = batcher_of(Clumsy(), patience, inline=inline)
        calls: list[RememberedCall] = []

        def submit(*given: RememberedCall) -> None:
            for call in given:
                calls.append(call)
                batcher.submit(call)

        if dead == "before":
            submit(call_of(1, deadline=0.0))
        # The last shares no batch with the others.
        submit(call_of(1), call_of(32), call_of(64))
        if dead == "behind":
            await asyncio.sleep(0)
            submit(call_of(1, deadline=0.0), call_of(1))
        assert await settled(calls)
        later = call_of(1)
        batcher.submit(later)
        assert await settled([later])
        batcher.close()

    asyncio.run(scene())

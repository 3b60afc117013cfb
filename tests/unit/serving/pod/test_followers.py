"""Who waits for the answer of an identical request is treated as if it had been computed itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.bundles import make_bundle
from tests.pods import RunningPod, running_pod
from tests.unit.serving.pod.held_engine import SIZE, answer, busy, eventually, leave, send, slow_model


def serve(tmp_path: Path, **serving: Any) -> Any:
    settings = {"max_batch_size": 4, "timeout_ms": 20_000, **serving}
    light = make_bundle(tmp_path, slow_model(), name="light", version=7)
    return running_pod(make_bundle(tmp_path, slow_model(), serving=settings), light)


def send_identical(pod: RunningPod, *headers: str) -> Any:
    """A request that is in the pod when this returns."""
    model = pod.pod.repository.models[0]
    before = model.in_flight
    connection = send(pod, 1, *headers)
    assert eventually(lambda: model.in_flight == before + 1)
    return connection


@pytest.mark.parametrize(
    ("fallback", "source"),
    [({"constant": {"y": [0.5] * SIZE}}, "constant"), ({"model": "light"}, "light")],
    ids=["constant", "model"],
)
def test_followers_get_the_fallback_as_their_leader_does(
    tmp_path: Path, fallback: dict[str, Any], source: str
) -> None:
    with serve(tmp_path, fallback=fallback) as pod:
        with busy(pod) as engine:
            engine.fails = True
            identical = [send_identical(pod) for _ in range(4)]
            engine.release()
            answers = [answer(one) for one in identical]
        assert [status for status, _ in answers] == [200] * 4
        assert [headers.get("x-slipway-fallback") for _, headers in answers] == [source] * 4
        # The request that kept the engine busy got one too.
        assert pod.pod.repository.models[0].metrics.fallbacks == 5
        assert eventually(lambda: all(model.in_flight == 0 for model in pod.pod.repository.models))


def test_followers_that_are_late_are_told_so(tmp_path: Path) -> None:
    with serve(tmp_path) as pod:
        with busy(pod) as engine:
            leader = send_identical(pod)
            patient, hasty = send_identical(pod), send_identical(pod, "x-slipway-timeout-ms: 50")
            time.sleep(0.1)
            engine.release()
            assert [answer(one)[0] for one in (leader, patient, hasty)] == [200, 200, 504]
        model = pod.pod.repository.models[0]
        assert model.metrics.dropped == {"expired": 1}
        assert model.answers is not None
        assert model.metrics.shared_in_flight == 1


def test_a_late_follower_of_what_is_being_computed_already_is_told_so(tmp_path: Path) -> None:
    with serve(tmp_path) as pod, busy(pod) as engine:
        hasty = send(pod, -1, "x-slipway-timeout-ms: 50")
        time.sleep(0.1)
        engine.release()
        assert answer(hasty)[0] == 504


def test_a_late_follower_gets_the_fallback(tmp_path: Path) -> None:
    with serve(tmp_path, fallback={"constant": {"y": [0.5] * SIZE}}) as pod, busy(pod) as engine:
        leader, hasty = send_identical(pod), send_identical(pod, "x-slipway-timeout-ms: 50")
        time.sleep(0.1)
        engine.release()
        assert "x-slipway-fallback" not in answer(leader)[1]
        status, headers = answer(hasty)
        assert (status, headers["x-slipway-fallback"]) == (200, "constant")


def test_a_follower_whose_leader_left_is_computed_in_its_place(tmp_path: Path) -> None:
    with serve(tmp_path) as pod, busy(pod) as engine:
        leader = send_identical(pod)
        followers = [send_identical(pod), send_identical(pod)]
        leave(leader)
        assert pod.http.get("/v2/health/live").status_code == 200
        engine.release()
        assert [answer(one)[0] for one in followers] == [200, 200]

"""A pod whose engine does not come back from a batch says that it is not alive."""

from __future__ import annotations

from pathlib import Path

from tests.bundles import make_bundle
from tests.pods import RunningPod, running_pod
from tests.unit.serving.pod.held_engine import busy, eventually, slow_model


def status(pod: RunningPod, what: str) -> int:
    return pod.http.get(f"/v2/health/{what}").status_code


def test_a_batch_that_is_stuck_makes_the_pod_dead_and_its_end_makes_it_alive(tmp_path: Path) -> None:
    with running_pod(
        make_bundle(tmp_path, slow_model(), serving={"timeout_ms": 50}), stuck_seconds=0.1
    ) as pod:
        assert status(pod, "live") == 200
        with busy(pod) as engine:
            assert eventually(lambda: status(pod, "live") == 503)
            engine.release()
            assert eventually(lambda: status(pod, "live") == 200)


def test_a_batch_that_takes_its_time_is_not_stuck(tmp_path: Path) -> None:
    """Callers still wait for it: the spec gives them a minute."""
    bundle = make_bundle(tmp_path, slow_model(), serving={"timeout_ms": 60_000})
    with running_pod(bundle, stuck_seconds=0.0) as pod, busy(pod):
        assert status(pod, "live") == 200

"""What a pod on a GPU tells of it, and that a pod on the CPU tells nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.engines import nvml
from model_store.engines.onnxruntime import OnnxRuntimeEngine
from serving.pod import pod as pod_module
from serving.pod.measuring import Measuring
from tests.bundles import make_bundle, mlp
from tests.pods import running_pod

READING = nvml.GpuReading(
    uuid="GPU-1",
    name='A "GPU"',
    used=0.5,
    memory_used_bytes=3 * 2**30,
    memory_total_bytes=140 * 2**30,
    celsius=61,
    watts=412.5,
    slowed_by=("power cap",),
    uncorrected_errors=2,
)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntimeEngine, "platform", "onnxruntime_cuda")


@pytest.mark.usefixtures("on_a_gpu")
def test_a_pod_on_a_gpu_tells_how_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "reading", lambda: READING)
    with running_pod(make_bundle(tmp_path, mlp())) as pod:
        told = pod.http.get("/metrics").text
    at = r'gpu="GPU-1",name="A \"GPU\""'
    for line in (
        "slipway_gpu_up 1",
        f"slipway_gpu_utilization_ratio{{{at}}} 0.5",
        f"slipway_gpu_memory_used_bytes{{{at}}} {3 * 2**30}",
        f"slipway_gpu_power_watts{{{at}}} 412.5",
        f'slipway_gpu_throttled{{{at},reason="power cap"}} 1.0',
        f"slipway_gpu_ecc_uncorrected_total{{{at}}} 2",
    ):
        assert f"\n{line}\n" in told


@pytest.mark.usefixtures("on_a_gpu")
def test_of_a_gpu_that_does_not_answer_nothing_is_told_but_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "reading", lambda: None)
    with running_pod(make_bundle(tmp_path, mlp())) as pod:
        told = pod.http.get("/metrics").text
    assert "\nslipway_gpu_up 0\n" in told
    assert "slipway_gpu_utilization_ratio" not in told


def test_a_pod_on_the_cpu_tells_of_no_gpu(tmp_path: Path) -> None:
    with running_pod(make_bundle(tmp_path, mlp())) as pod:
        assert "slipway_gpu" not in pod.http.get("/metrics").text


@pytest.mark.usefixtures("on_a_gpu")
def test_a_pod_whose_gpu_is_lost_is_not_ready_and_says_why_until_it_answers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"lost": ""}
    monkeypatch.setattr(nvml, "lost", lambda: said["lost"])
    monkeypatch.setattr(pod_module, "_GPU_SECONDS", 0.05)
    with running_pod(make_bundle(tmp_path, mlp())) as pod:
        said["lost"] = "NVML says GPU is lost"
        until(lambda: pod.http.get("/v2/health/ready").status_code == 503)
        assert "the GPU is lost: NVML says GPU is lost" in pod.http.get("/v2/health/ready").text
        assert pod.http.get("/v2/health/live").status_code == 200
        said["lost"] = ""
        until(lambda: pod.http.get("/v2/health/ready").status_code == 200)


@pytest.mark.usefixtures("on_a_gpu")
def test_a_driver_that_never_answers_keeps_no_request_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(nvml, "reading", lambda: answers.wait() and READING)
    monkeypatch.setattr(Measuring.__init__, "__kwdefaults__", {"patience_seconds": 0.3})
    try:
        with running_pod(make_bundle(tmp_path, mlp())) as pod:
            asked = threading.Thread(target=pod.http.get, args=("/metrics",))
            asked.start()
            # The event loop itself is free meanwhile.
            assert pod.http.get("/v2/health/live").status_code == 200
            asked.join()
            assert "\nslipway_gpu_up 0\n" in pod.http.get("/metrics").text
            answers.set()
            until(lambda: "\nslipway_gpu_up 1\n" in pod.http.get("/metrics").text)
    finally:
        answers.set()


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)

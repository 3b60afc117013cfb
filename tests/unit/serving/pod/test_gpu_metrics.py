"""What a pod on a GPU tells of it, and that a pod on the CPU tells nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.engines import nvml
from model_store.engines.onnxruntime import OnnxRuntimeEngine
from tests.bundles import make_bundle, mlp
from tests.pods import running_pod

READING = nvml.Reading(
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

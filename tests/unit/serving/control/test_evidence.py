"""What MLflow is told of a release."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from model_store.gates.profile import Profile
from serving.control import evidence

PROFILE = Profile(
    p50_ms=1.0,
    p99_ms=2.0,
    baseline_p50_ms=1.5,
    latency_ratio=0.7,
    latency_interval=(0.6, 0.8),
    rows_per_second=900.0,
    throughput_ratio=1.2,
    max_batch_size=32,
    size_bytes=4096,
    seconds=1.5,
)


def test_all_that_was_measured_of_a_candidate_becomes_numbers_of_its_run() -> None:
    gated: Any = {
        "variant": {"precision": "fp16", "layout": "ort"},
        "report": {"checks": [{"name": "accuracy", "observed": 0.9}]},
        # As a later task reads it.
        "profile": json.loads(json.dumps(asdict(PROFILE))),
    }
    found = evidence._gate_metrics([gated])
    by_name = {name.partition("/")[2]: value for name, value in found.items()}
    assert by_name["accuracy"] == 0.9
    assert (by_name["latency_interval_lower"], by_name["latency_interval_upper"]) == (0.6, 0.8)
    assert len(by_name) == len(asdict(PROFILE)) + 2
    assert all(type(value) is float for value in found.values())

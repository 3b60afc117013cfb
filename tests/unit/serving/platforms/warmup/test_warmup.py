from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model_store.errors import Retryable
from serving.platforms.warmup import FailedWarmup, warm_up
from serving.pod.warm_rows import requests
from serving.types import Slot
from tests.unit.serving.upstream import Pods, deployment, pods_running

MANIFEST = {
    "model": {"name": "fraud", "version": 3},
    "inputs": [
        {"name": "amounts", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "country", "datatype": "BYTES", "shape": [-1]},
    ],
    "warmup": "warmup.npz",
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.savez(tmp_path / "warmup.npz", amounts=rows, country=np.array(["de", "fr", "it", "es", "pl"]))
    return tmp_path


@pytest.fixture
def pods() -> Iterator[Pods]:
    with pods_running() as running:
        yield running


def test_each_row_is_one_request_of_the_protocol(bundle: Path) -> None:
    bodies = [json.loads(body) for body in requests(bundle, MANIFEST)]
    assert len(bodies) == 5
    assert bodies[1]["inputs"] == [
        {"name": "amounts", "datatype": "FP32", "shape": [1, 2], "data": [2.0, 3.0]},
        {"name": "country", "datatype": "BYTES", "shape": [1], "data": ["fr"]},
    ]


def test_every_pod_answers_every_warm_row(bundle: Path, pods: Pods) -> None:
    upstreams = [pods.start("a"), pods.start("b")]
    done = warm_up(bundle, deployment("fraud", 3, *upstreams, slot=Slot.GREEN))
    assert [each.answered for each in upstreams] == [5, 5]
    assert (done.requests, done.first_ms > 0, done.last_ms > 0) == (10, True, True)


def test_a_pod_that_fails_a_warm_row_is_refused(bundle: Path, pods: Pods) -> None:
    with pytest.raises(FailedWarmup, match="500"):
        warm_up(bundle, deployment("fraud", 3, pods.start("bad", fault="error")))


def test_a_pod_that_is_not_there_is_worth_another_try(bundle: Path, pods: Pods) -> None:
    gone = pods.start("gone")
    pods.kill(gone)
    with pytest.raises(Retryable):
        warm_up(bundle, deployment("fraud", 3, gone))


def test_a_bundle_without_warm_rows_asks_nothing(bundle: Path, pods: Pods) -> None:
    (bundle / "manifest.json").write_text(json.dumps({**MANIFEST, "warmup": None}))
    assert warm_up(bundle, deployment("fraud", 3, pods.start("a"))).requests == 0

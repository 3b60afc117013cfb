"""A pod that answers its own warm rows before it says that it is ready."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_store.errors import Permanent
from tests.bundles import make_bundle, mlp
from tests.pods import running_pod

ROWS = {"input": np.ones((3, 4), np.float32)}


def test_it_has_answered_each_of_them_once_when_it_is_ready(tmp_path: Path) -> None:
    with running_pod(make_bundle(tmp_path, mlp(), warmup=ROWS), answer_warm_rows=True) as pod:
        (counted,) = pod.http.get("/v2/models/credit_risk/stats").json()["model_stats"]
        assert counted["inference_stats"]["success"]["count"] == 3


def test_it_asks_nothing_of_itself_unless_it_is_told_to(tmp_path: Path) -> None:
    with running_pod(make_bundle(tmp_path, mlp(), warmup=ROWS)) as pod:
        (counted,) = pod.http.get("/v2/models/credit_risk/stats").json()["model_stats"]
        assert counted["inference_stats"]["success"]["count"] == 0


def test_a_bundle_without_warm_rows_is_ready_as_before(tmp_path: Path) -> None:
    with running_pod(make_bundle(tmp_path, mlp()), answer_warm_rows=True) as pod:
        assert pod.http.get("/v2/health/ready").status_code == 200


def test_one_that_cannot_answer_them_ends_and_says_what_it_answered(tmp_path: Path) -> None:
    """The engine takes the rows, and the way to it does not: users would have met that first."""
    bundle = make_bundle(tmp_path, mlp(), warmup=ROWS)
    with (
        pytest.raises(Permanent, match="credit_risk answered a warm row with 413"),
        running_pod(bundle, answer_warm_rows=True, max_body_bytes=16),
    ):
        pass

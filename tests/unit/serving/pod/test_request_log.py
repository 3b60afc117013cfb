"""A sample of requests is written to Parquet, kept within bounds, and warms the next version's cache."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from model_store.engines.manifest import LogSettings
from model_store.engines.signature import Signature, tensor_spec
from serving.pod.recording.reader import most_frequent
from serving.pod.recording.writer import delete_old
from tests.bundles import elementwise, make_bundle, mlp
from tests.pods import running_pod

EVERYTHING = {"request_log": {"share": 1.0}}
SIGNATURE = Signature.of((tensor_spec("input", "FP32", [-1, 4]),), (tensor_spec("label", "INT64", [-1]),))


def row(*values: float) -> dict[str, Any]:
    return {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": list(values)}]}


def written(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_requests_and_answers_are_written_down_as_they_were(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, mlp(), serving=EVERYTHING)
    with running_pod(bundle, request_log=tmp_path / "log") as pod:
        answers = [pod.infer(row(n, 0, 0, 1)).json()["outputs"] for n in range(5)]
    rows = written(tmp_path / "log")
    assert [np.frombuffer(r["in:input"], np.float32).tolist() for r in rows] == [
        [n, 0, 0, 1] for n in range(5)
    ]
    assert [r["shape:input"] for r in rows] == ["1,4"] * 5
    for r, (label, probabilities) in zip(rows, answers, strict=True):
        assert np.frombuffer(r["out:label"], np.int64).tolist() == label["data"]
        np.testing.assert_allclose(
            np.frombuffer(r["out:probabilities"], np.float32), probabilities["data"], rtol=1e-6
        )
        assert (r["bundle"], r["version"], r["code"], r["rows"]) == (bundle.name, "1", 200, 1)
        assert 0 < r["seconds"] < 10
        assert abs(r["at"] - datetime.now(UTC)) < timedelta(minutes=5)


def test_only_the_share_asked_for_is_written(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, mlp(), serving={"request_log": {"share": 0.2}})
    with running_pod(bundle, request_log=tmp_path / "log") as pod:
        for n in range(200):
            pod.infer(row(n, 0, 0, 1))
    assert 15 <= len(written(tmp_path / "log")) <= 75


def test_without_the_specs_wish_nothing_is_written(tmp_path: Path) -> None:
    with running_pod(make_bundle(tmp_path, mlp()), request_log=tmp_path / "log") as pod:
        pod.infer(row(1, 2, 3, 4))
    assert not written(tmp_path / "log")


def test_old_and_surplus_files_are_deleted(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    for name, days, size in (("ancient", 9, 10), ("old", 3, 600_000), ("newer", 2, 600_000), ("new", 1, 10)):
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(b"x" * size)
        stamp = (now - timedelta(days=days)).timestamp()
        os.utime(path, (stamp, stamp))
    delete_old(tmp_path, LogSettings(max_mb=1, keep_days=7), now)
    assert {path.stem for path in tmp_path.iterdir()} == {"newer", "new"}


def test_the_log_gives_back_the_most_frequent_inputs_first(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, mlp(), serving=EVERYTHING)
    with running_pod(bundle, request_log=tmp_path / "log") as pod:
        for n, times in ((1, 2), (2, 7), (3, 4)):
            for _ in range(times):
                pod.infer(row(n, 0, 0, 0))
        pod.infer(row(1, 2, 3))
    (tmp_path / "log/credit_risk/torn.parquet").write_bytes(b"PAR1 torn")
    asked = list(most_frequent(tmp_path / "log", "credit_risk", SIGNATURE, limit=2))
    assert [one.times for one in asked] == [7, 4]
    assert [np.frombuffer(one.call.data[0], np.float32)[0] for one in asked] == [2, 3]  # type: ignore[arg-type]
    assert asked[0].total == 13


def test_a_log_of_another_shape_is_passed_over(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, mlp(), serving=EVERYTHING)
    with running_pod(bundle, request_log=tmp_path / "log") as pod:
        pod.infer(row(1, 0, 0, 0))
    other = Signature.of((tensor_spec("input", "FP32", [-1, 5]),), SIGNATURE.outputs)
    renamed = Signature.of((tensor_spec("other", "FP32", [-1, 4]),), SIGNATURE.outputs)
    assert not list(most_frequent(tmp_path / "log", "credit_risk", other, limit=2))
    assert not list(most_frequent(tmp_path / "log", "credit_risk", renamed, limit=2))
    assert not list(most_frequent(tmp_path / "log", "nobody", SIGNATURE, limit=2))


def test_the_next_version_starts_with_answers_to_what_was_asked(tmp_path: Path) -> None:
    first = make_bundle(tmp_path, mlp(), serving=EVERYTHING)
    with running_pod(first, request_log=tmp_path / "log") as pod:
        for n in range(10):
            pod.infer(row(n, 0, 0, 0))
    second = make_bundle(tmp_path, mlp(seed=1), version=2, serving={**EVERYTHING, "cache": {"max_mb": 1}})
    with running_pod(second, request_log=tmp_path / "log") as pod:
        warm, cold = pod.infer(row(3, 0, 0, 0)), pod.infer(row(99, 0, 0, 0))
        assert warm.headers["x-slipway-cache"] == "memory"
        assert "x-slipway-cache" not in cold.headers
        assert warm.json()["model_version"] == "2"


def test_text_survives_the_log(tmp_path: Path) -> None:
    from onnx import TensorProto

    serving = {**EVERYTHING, "cache": {"max_mb": 1}}
    bundle = make_bundle(tmp_path, elementwise(element=TensorProto.STRING), serving=serving)
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "BYTES", "data": ["Zürich", ""]}]}
    with running_pod(bundle, request_log=tmp_path / "log") as pod:
        first = pod.infer(body).json()
        time.sleep(0.01)
    with running_pod(bundle, request_log=tmp_path / "log") as pod:
        again = pod.infer(body)
        assert again.headers["x-slipway-cache"] == "memory"
        assert again.json() == first

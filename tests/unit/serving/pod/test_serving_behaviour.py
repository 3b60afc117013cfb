"""A pod as its callers and its supervisor meet it."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper
from prometheus_client.parser import text_string_to_metric_families

from model_store.errors import Permanent
from model_store.installation import ROOT as REPOSITORY
from tests.bundles import elementwise, make_bundle, mlp, model_of
from tests.pods import RunningPod, running_pod


def row(*values: float, **fields: Any) -> dict[str, Any]:
    shape = [1, len(values)]
    return {"inputs": [{"name": "input", "shape": shape, "datatype": "FP32", "data": list(values)}], **fields}


def slow_model(size: int = 700) -> Any:
    """x [N, size] times a large matrix a few times: milliseconds a row, so that queues form."""
    weight = numpy_helper.from_array(np.eye(size, dtype=np.float32), "w")
    names = ["x", *[f"h{n}" for n in range(30)], "y"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)]
    value = helper.make_tensor_value_info
    return model_of(
        nodes,
        [value("x", TensorProto.FLOAT, ["N", size])],
        [value("y", TensorProto.FLOAT, ["N", size])],
        [weight],
    )


def test_an_answer_says_which_bundle_version_and_slot_gave_it(pod: RunningPod, mlp_bundle: Path) -> None:
    response = pod.infer(row(1, 2, 3, 4), headers={"x-request-id": "abc"})
    assert response.headers["x-slipway-bundle"] == mlp_bundle.name
    assert response.headers["x-slipway-version"] == "1"
    assert response.headers["x-slipway-slot"] == "blue"
    assert response.headers["x-request-id"] == "abc"


def test_concurrent_requests_share_batches_and_keep_their_answers(pod: RunningPod) -> None:
    rows = [row(n, n / 2, -n, 1) for n in range(400)]
    alone = [pod.infer(body).json()["outputs"][1]["data"] for body in rows[:5]]
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda body: pod.infer(body).json()["outputs"][1]["data"], rows))
    assert answers[:5] == alone
    assert len({tuple(answer) for answer in answers}) > 390, "everyone got their own"


def test_metrics_tell_what_happened(pod: RunningPod) -> None:
    pod.infer(row(1, 2, 3, 4))
    pod.infer(row(1, 2, 3))
    text = pod.http.get("/metrics").text
    for family in ("slipway_requests_total", "slipway_request_seconds_bucket", "slipway_batch_rows_count"):
        assert f'{family}{{model="credit_risk",version="1"' in text
    assert 'code="400"' in text
    assert "slipway_ready 1" in text
    assert "process_resident_memory_bytes" in text


def test_promtool_could_read_the_metrics(pod: RunningPod) -> None:
    families = {
        family.name: family for family in text_string_to_metric_families(pod.http.get("/metrics").text)
    }
    assert families["slipway_request_seconds"].type == "histogram"
    assert families["slipway_requests"].type == "counter"


def test_faults_fail_their_share_of_one_version_and_never_health(mlp_bundle: Path) -> None:
    with running_pod(
        mlp_bundle, faults="other@1:error_rate=1;credit_risk@1:error_rate=0.3,delay_ms=1"
    ) as pod:
        codes = [pod.infer(row(n, 0, 0, 0)).status_code for n in range(200)]
        assert set(codes) == {200, 500}
        assert 30 <= codes.count(500) <= 95
        assert all(pod.http.get("/v2/health/ready").status_code == 200 for _ in range(20))


def test_a_switch_nobody_can_read_is_refused_at_start(mlp_bundle: Path) -> None:
    with (
        pytest.raises(Permanent, match="SLIPWAY_FAULTS"),
        running_pod(mlp_bundle, faults="credit_risk@1:boom=1"),
    ):
        pass


def test_an_expired_request_is_504_and_never_computed(mlp_bundle: Path) -> None:
    with running_pod(mlp_bundle, faults="credit_risk@1:delay_ms=60") as pod:
        rows = pod.pod.repository.models[0].metrics.rows
        assert pod.infer(row(1, 2, 3, 4), headers={"x-slipway-timeout-ms": "5"}).status_code == 504
        assert pod.pod.repository.models[0].metrics.rows == rows


def test_a_nan_answer_is_a_500(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, elementwise("Log"), warmup={"x": np.ones((1, 2), np.float32)})
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, -1]}]}
    with running_pod(bundle) as pod:
        response = pod.infer(body)
        assert response.status_code == 500
        assert "NaN" in response.json()["error"]


def test_an_index_past_a_tables_end_is_the_clients_mistake(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    table = numpy_helper.from_array(np.arange(10, dtype=np.float32), "table")
    model = model_of(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [value("x", TensorProto.INT64, ["N", 1])],
        [value("y", TensorProto.FLOAT, ["N", 1])],
        [table],
    )
    with running_pod(make_bundle(tmp_path, model)) as pod:
        body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "INT64", "data": [11]}]}
        assert pod.infer(body).status_code == 400
        body["inputs"][0]["data"] = [9]
        assert pod.infer(body).json()["outputs"][0]["data"] == [9.0]


@pytest.fixture(scope="module")
def slow_pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPod]:
    serving = {
        "max_batch_size": 1,
        "min_concurrency": 4,
        "target_queue_ms": 30,
        "timeout_ms": 5000,
        "max_queue_rows": 64,
    }
    bundle = make_bundle(tmp_path_factory.mktemp("slow"), slow_model(), serving=serving)
    with running_pod(bundle) as pod:
        yield pod


def ask_slowly(pod: RunningPod, seed: int, priority: str = "normal") -> httpx.Response:
    data = np.full(700, seed, np.float32).tolist()
    body = {"inputs": [{"name": "x", "shape": [1, 700], "datatype": "FP32", "data": data}]}
    return pod.infer(body, headers={"x-slipway-priority": priority})


def test_overload_is_shed_quickly_with_retry_after_and_high_priority_is_unharmed(
    slow_pod: RunningPod,
) -> None:
    def ask(number: int) -> tuple[str, int, float, str | None]:
        priority = "high" if number % 20 == 0 else "low"
        start = time.perf_counter()
        response = ask_slowly(slow_pod, number, priority)
        return (
            priority,
            response.status_code,
            time.perf_counter() - start,
            response.headers.get("retry-after"),
        )

    with concurrent.futures.ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(ask, range(800)))
    codes = {(priority, code) for priority, code, _, _ in answers}
    assert ("low", 503) in codes
    assert ("low", 200) in codes, "low is not starved"
    assert {code for priority, code in codes if priority == "high"} == {200}
    assert all(retry == "1" for _, code, _, retry in answers if code == 503)


def test_sigterm_finishes_what_is_in_flight_and_loses_nothing(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, mlp())
    command = [sys.executable, "-m", "serving.pod", "--unverified", "--bundle", str(bundle), "--port", "0"]
    environment = {**os.environ, "SLIPWAY_FAULTS": "credit_risk@1:delay_ms=300"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        port = port_of(process)
        with concurrent.futures.ThreadPoolExecutor(20) as threads, httpx.Client(timeout=10) as client:
            url = f"http://127.0.0.1:{port}/v2/models/credit_risk/infer"
            answers = [threads.submit(client.post, url, json=row(n, 0, 0, 0)) for n in range(20)]
            time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            assert {answer.result().status_code for answer in answers} == {200}
            assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()  # type: ignore[union-attr]


def port_of(process: subprocess.Popen[str]) -> int:
    """Read the log up to the line that says which port was taken."""
    assert process.stderr is not None
    for line in process.stderr:
        message = json.loads(line)["message"]
        if message.startswith("ready on"):
            return int(message.rsplit(":", 1)[1])
    raise AssertionError("the pod ended before it was ready")


def test_a_small_model_is_served_in_under_two_seconds(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, mlp((30, 256, 256, 2)))
    command = [sys.executable, "-X", "importtime", "-c", "import serving.pod.__main__"]
    heavy = ("pandas", "sklearn", "mlflow", "pyarrow", "redis", "torch", "scipy", "airflow", "grpc")
    imported = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in imported.splitlines() if "|" in line}
    assert not found & set(heavy)
    start = time.process_time()
    with running_pod(bundle):
        busy = time.process_time() - start
    assert busy < 2


def test_while_draining_the_pod_is_not_ready_but_still_answers(mlp_bundle: Path) -> None:
    with running_pod(mlp_bundle) as pod:
        pod.loop.call_soon_threadsafe(pod.pod.front.drain)
        time.sleep(0.05)
        assert pod.http.get("/v2/health/ready").status_code == 503
        assert pod.http.get("/v2/health/live").status_code == 200
        response = pod.infer(row(1, 2, 3, 4))
        assert response.status_code == 200
        assert response.headers["connection"] == "close"


def test_unloading_under_traffic_answers_everyone(tmp_path: Path) -> None:
    with running_pod(make_bundle(tmp_path, mlp())) as pod:
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            codes = [threads.submit(pod.infer, row(n, 0, 0, 0)) for n in range(400)]
            assert pod.management.post("/v2/repository/models/credit_risk/unload").status_code == 200
            assert pod.management.post("/v2/repository/models/credit_risk/load").status_code == 200
        assert {code.result().status_code for code in codes} <= {200, 503}


def test_a_bundle_that_cannot_be_served_says_why(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, mlp())
    (bundle / "credit_risk/1/model.onnx").write_bytes(b"garbage")
    with pytest.raises(Permanent, match="cannot load"), running_pod(bundle):
        pass
    (bundle / "manifest.json").write_text("{}")
    with pytest.raises(Permanent, match="manifest"), running_pod(bundle):
        pass
    with pytest.raises(Permanent), running_pod(tmp_path / "nowhere"):
        pass


def test_a_manifest_cannot_point_outside_its_bundle(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, mlp())
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["file"] = "../../etc/passwd"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Permanent, match="outside"), running_pod(bundle):
        pass


def test_a_model_that_fails_its_own_warmup_rows_never_becomes_ready(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, elementwise("Log"), warmup={"x": np.full((1, 2), -1, np.float32)})
    with pytest.raises(Permanent, match="NaN"), running_pod(bundle):
        pass
    other = make_bundle(tmp_path, elementwise("Log"), warmup={"x": np.ones((1, 3), np.float32)}, version=2)
    with pytest.raises(Permanent), running_pod(other):
        pass


class TestFallbacks:
    """A model that is switched to fail, and what answers instead."""

    faults = "credit_risk@1:error_rate=1"

    def serve(self, tmp_path: Path, fallback: dict[str, Any], **serving: Any) -> Any:
        bundle = make_bundle(tmp_path, mlp(), serving={"fallback": fallback, **serving})
        light = make_bundle(tmp_path, mlp(seed=1), name="light", version=7)
        return running_pod(bundle, light, faults=self.faults)

    def test_a_constant(self, tmp_path: Path) -> None:
        with self.serve(tmp_path, {"constant": {"label": 1, "probabilities": [0.25, 0.75]}}) as pod:
            response = pod.infer(row(1, 2, 3, 4))
            assert response.status_code == 200
            assert response.headers["x-slipway-fallback"] == "constant"
            assert [output["data"] for output in response.json()["outputs"]] == [[1], [0.25, 0.75]]

    def test_another_model(self, tmp_path: Path) -> None:
        with self.serve(tmp_path, {"model": "light"}) as pod:
            response = pod.infer(row(1, 2, 3, 4))
            assert response.status_code == 200
            assert response.headers["x-slipway-fallback"] == "light"
            assert response.json()["outputs"] == pod.infer(row(1, 2, 3, 4), model="light").json()["outputs"]
            assert all(model.in_flight == 0 for model in pod.pod.repository.models)

    def test_an_old_answer_and_only_if_there_is_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken: list[bool] = []
        monkeypatch.setattr("serving.pod.faults.Faults.strikes", lambda _: bool(broken))
        cache = {"max_mb": 1, "ttl_seconds": 0.01}
        bundle = make_bundle(tmp_path, mlp(), serving={"fallback": {"stale": True}, "cache": cache})
        with running_pod(bundle, faults=self.faults) as pod:
            fresh = pod.infer(row(1, 2, 3, 4))
            time.sleep(0.05)
            broken.append(True)
            response = pod.infer(row(1, 2, 3, 4))
            assert response.status_code == 200
            assert response.headers["x-slipway-fallback"] == "stale"
            assert response.json() == fresh.json()
            assert pod.infer(row(4, 3, 2, 1)).status_code == 500

    def test_a_clients_mistake_is_still_a_400(self, tmp_path: Path) -> None:
        with self.serve(tmp_path, {"constant": {"label": 1, "probabilities": [0.25, 0.75]}}) as pod:
            assert pod.infer(row(1, 2, 3)).status_code == 400


def test_a_cached_answer_says_so_and_is_the_same(tmp_path: Path) -> None:
    with running_pod(make_bundle(tmp_path, mlp((300, 8, 2)), serving={"cache": {"max_mb": 1}})) as pod:
        body = row(*np.linspace(0, 1, 300).tolist())
        first, second = pod.infer(body), pod.infer(body)
        assert "x-slipway-cache" not in first.headers
        assert second.headers["x-slipway-cache"] == "memory"
        assert first.json() == second.json()
        other = pod.infer({**body, "id": "mine"})
        assert other.json()["id"] == "mine"
        assert other.headers["x-slipway-cache"] == "memory"
        assert second.json().get("id") is None


def metric(pod: RunningPod, pattern: str) -> float:
    found = re.search(rf"^{pattern} (\S+)$", pod.http.get("/metrics").text, re.MULTILINE)
    assert found is not None, pattern
    return float(found[1])


def test_hits_and_misses_are_counted_once_each(tmp_path: Path) -> None:
    with running_pod(make_bundle(tmp_path, mlp(), serving={"cache": {"max_mb": 1}})) as pod:
        for value in (1, 2, 1, 1):
            assert pod.infer(row(value, 2, 3, 4)).status_code == 200
        assert metric(pod, r'slipway_cache_hits_total\{.*level="memory"\}') == 2
        assert metric(pod, r'slipway_cache_misses_total\{.*level="memory"\}') == 2
        assert metric(pod, r'slipway_requests_total\{.*code="200"\}') == 4
        assert metric(pod, r"slipway_request_seconds_count\{.*\}") == 4


def test_a_hit_does_not_hide_a_mistake_in_the_headers(tmp_path: Path) -> None:
    with running_pod(make_bundle(tmp_path, mlp(), serving={"cache": {"max_mb": 1}})) as pod:
        assert pod.infer(row(1, 2, 3, 4)).status_code == 200
        assert pod.infer(row(1, 2, 3, 4), headers={"x-slipway-priority": "urgent"}).status_code == 400


def test_hits_too_are_made_to_fail_and_are_logged(tmp_path: Path) -> None:
    serving = {"cache": {"max_mb": 1}, "request_log": {"share": 1.0}}
    bundle = make_bundle(tmp_path, mlp(), serving=serving)
    with running_pod(bundle, faults="credit_risk@1:error_rate=1") as pod:
        assert [pod.infer(row(1, 2, 3, 4)).status_code for _ in range(3)] == [500] * 3
    with running_pod(bundle, request_log=tmp_path / "log") as pod:
        assert [pod.infer(row(1, 2, 3, 4)).status_code for _ in range(3)] == [200] * 3
    logged = [pq.read_table(file) for file in (tmp_path / "log").rglob("*.parquet")]
    assert sum(table.num_rows for table in logged) == 3


def test_the_dashboard_asks_only_for_metrics_the_pod_has(pod: RunningPod, tmp_path: Path) -> None:
    dashboard = (REPOSITORY / "serving/pod/grafana.json").read_text()
    asked = set(re.findall(r"\b((?:slipway|process)_[a-z_]+)", dashboard)) - {"slipway_pods"}
    bundle = make_bundle(tmp_path, mlp(), serving={"cache": {"max_mb": 1}})
    with running_pod(bundle, redis="redis://127.0.0.1:1/0") as other:
        found = set(
            re.findall(r"^((?:slipway|process)_[a-z_]+)", other.http.get("/metrics").text, re.MULTILINE)
        )
    text = pod.http.get("/metrics").text
    found |= set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert len(asked) > 15
    assert asked <= found


def test_a_client_that_half_closes_while_the_model_computes_gets_its_answer(mlp_bundle: Path) -> None:
    body = json.dumps(row(1, 2, 3, 4)).encode()
    head = b"POST /v2/models/credit_risk/infer HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body)
    with running_pod(mlp_bundle, faults="credit_risk@1:delay_ms=150") as pod, pod.connect() as client:
        client.sendall(head + body)
        time.sleep(0.05)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert client.recv(4096) == b""

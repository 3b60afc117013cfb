"""Counters only ever grow, also when their model is loaded again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.bundles import make_bundle, mlp
from tests.pods import RunningPod, running_pod
from tests.unit.serving.pod.held_engine import SIZE, answer, ask, busy, eventually, send, slow_model

BODY = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


def counted(pod: RunningPod, name: str, **labels: Any) -> float:
    wanted = "".join(f'[^}}]*{key}="{value}"' for key, value in labels.items())
    (found,) = re.findall(rf"^{name}{{[^}}]*{wanted}[^}}]*}} (\S+)$", pod.http.get("/metrics").text, re.M)
    return float(found)


def test_counters_go_on_after_a_reload_and_after_an_unload(tmp_path: Path) -> None:
    base = "/v2/repository/models/credit_risk"
    with running_pod(make_bundle(tmp_path, mlp())) as pod:
        for reloads in range(3):
            assert counted(pod, "slipway_requests_total", code=200) == reloads
            assert counted(pod, "slipway_rows_total") == reloads
            assert counted(pod, "slipway_request_seconds_count") == reloads
            assert pod.infer(BODY).status_code == 200
            if reloads == 1:
                assert pod.management.post(f"{base}/unload").status_code == 200
            assert pod.management.post(f"{base}/load").status_code == 200


def test_what_caches_and_fallbacks_counted_goes_on_after_a_reload(tmp_path: Path) -> None:
    serving = {
        "max_batch_size": 4,
        "timeout_ms": 20_000,
        "cache": {"max_mb": 1},
        "fallback": {"constant": {"y": [0.5] * SIZE}},
    }
    counters: tuple[tuple[str, dict[str, str]], ...] = (
        ("slipway_cache_hits_total", {"level": "memory"}),
        ("slipway_cache_misses_total", {"level": "memory"}),
        ("slipway_cache_hits_total", {"level": "in_flight"}),
        ("slipway_fallbacks_total", {}),
    )
    with running_pod(make_bundle(tmp_path, slow_model(), serving=serving)) as pod:
        model = pod.pod.repository.models[0]
        with busy(pod) as engine:
            follower = send(pod, -1)
            assert eventually(lambda: model.in_flight == 2)
            engine.release()
            assert answer(follower)[0] == 200
        assert pod.infer(ask(-1)).headers["x-slipway-cache"] == "memory"
        model.engine.run = Mock(side_effect=RuntimeError("told to fail"))  # type: ignore[method-assign]
        assert pod.infer(ask(1)).headers["x-slipway-fallback"] == "constant"
        before = [counted(pod, name, **labels) for name, labels in counters]
        assert min(before) == 1
        assert pod.management.post("/v2/repository/models/credit_risk/load").status_code == 200
        assert [counted(pod, name, **labels) for name, labels in counters] == before


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_requests_for_models_that_are_not_loaded_are_counted(tmp_path: Path, protocol: str) -> None:
    with (
        running_pod(make_bundle(tmp_path, mlp())) as pod,
        grpc.insecure_channel(f"127.0.0.1:{pod.port}") as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def ask_for(model: str) -> None:
            if protocol == "http":
                assert pod.infer(BODY, model).status_code >= 400
                return
            with pytest.raises(grpc.RpcError):
                stub.ModelInfer(service_pb2.ModelInferRequest(model_name=model), timeout=10)

        assert pod.management.post("/v2/repository/models/credit_risk/unload").status_code == 200
        for model in ("credit_risk", "credit_risk", "invented", 'in"vented'):
            ask_for(model)
        page = pod.http.get("/metrics").text
        assert counted(pod, "slipway_requests_total", model="credit_risk", version=1, code=503) == 2
        assert counted(pod, "slipway_requests_total", model="[(]unknown[)]", code=404) == 2
        assert "vented" not in page
        # What asks about a model is no inference.
        assert pod.http.get("/v2/models/credit_risk/ready").status_code == 503
        assert counted(pod, "slipway_requests_total", model="credit_risk", code=503) == 2

"""Counters only ever grow, also when their model is loaded again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.bundles import make_bundle, mlp
from tests.pods import RunningPod, running_pod

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
                assert pod.http.post(f"{base}/unload").status_code == 200
            assert pod.http.post(f"{base}/load").status_code == 200

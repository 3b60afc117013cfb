"""Recorded requests asked again of pods that refuse now and then and have a long log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.control.shadow import AnswerComparison
from serving.types import Deployment, DeploymentRef, Endpoint, Route, Slot, TrafficSplit

MODEL = "fraud"


class Pod:
    """Stands for both arms. `refusals`: how many more it gives.

    With `is_smaller` its model refuses every other request, so stable answers and the candidate does not.
    """

    def __init__(self) -> None:
        self.refusals, self.asked = 0, 0
        self.is_smaller = False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def _handler(pod) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the request's
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._say({"inputs": [{"name": "x", "datatype": "FP32"}]})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                refused = pod.refusals > 0
                pod.refusals -= refused
                output = {"name": "label", "datatype": "INT64", "shape": [1], "data": [1]}
                pod.asked += 1
                if pod.is_smaller and pod.asked % 2 == 0:
                    self._say({"error": "no such item"}, 400, refused_by="model")
                else:
                    self._say({"outputs": [output]}, 503 if refused else 200)

            def _say(self, body: object, code: int = 200, refused_by: str = "") -> None:
                content = orjson.dumps(body)
                self.send_response(code)
                self.send_header("content-length", str(len(content)))
                if refused_by:
                    self.send_header("x-slipway-refused", refused_by)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


class Scene:
    def __init__(self, home: Path, pod: Pod) -> None:
        self.home, self.pod, self.written, self.compared = home, pod, 0, 0
        self.log = home / "requests"
        (self.log / MODEL).mkdir(parents=True)

    def record(self, count: int) -> None:
        """One more file of the log, as pods write it."""
        self.written += 1
        row = {"code": 200, "in:x": np.float32(1).tobytes(), "shape:x": "1"}
        rows = [{**row, "identity": f"{self.written}-{number}"} for number in range(count)]
        path = self.log / MODEL / f"v1-20261121T12000{self.written}-1.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)

    def start(self) -> AnswerComparison:
        endpoint = Endpoint("127.0.0.1", self.pod.server.server_port)
        stable, candidate = (
            Deployment(DeploymentRef(MODEL, slot, "b", 1), (endpoint,)) for slot in (Slot.BLUE, Slot.GREEN)
        )
        route = Route(MODEL, 1, TrafficSplit(100, 0), stable, candidate)
        return AnswerComparison(self.log, route, per_second=1000)

    def wait(self, comparison: AnswerComparison, count: int) -> None:
        deadline = time.monotonic() + 5
        while self.compared < count and time.monotonic() < deadline:
            self.compared += comparison.take()[0]
            time.sleep(0.005)
        assert self.compared == count


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr("serving.control.shadow.READ_AGAIN_SECONDS", 0.02)
    pod = Pod()
    yield Scene(tmp_path, pod)
    pod.server.shutdown()
    pod.server.server_close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counted: Counter[str] = Counter()
    read: Callable[..., Any] = pq.read_table

    def counting(path: Path, **options: object) -> object:
        counted[path.name] += 1
        return read(path, **options)

    monkeypatch.setattr(pq, "read_table", counting)
    return counted


def test_a_file_of_the_log_is_read_once(scene: Scene, reads: Counter[str]) -> None:
    scene.record(3)
    scene.record(2)
    comparison = scene.start()
    scene.wait(comparison, 5)
    scene.record(1)
    scene.wait(comparison, 6)
    comparison.end()
    assert sorted(reads.values()) == [1, 1, 1]


def test_a_candidate_whose_model_refuses_what_stable_answers_disagrees(scene: Scene) -> None:
    scene.pod.is_smaller = True
    scene.record(4)
    comparison, seen = scene.start(), (0, 0)
    deadline = time.monotonic() + 5
    while seen[0] < 4 and time.monotonic() < deadline:
        more = comparison.take()
        seen = seen[0] + more[0], seen[1] + more[1]
        time.sleep(0.005)
    comparison.end()
    assert seen == (4, 4)


def test_what_a_pod_refused_to_answer_is_asked_again(scene: Scene) -> None:
    scene.pod.refusals = 4
    scene.record(3)
    comparison = scene.start()
    scene.wait(comparison, 3)
    comparison.end()

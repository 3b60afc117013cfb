"""Redis as the second level: shared by replicas, invalidated by a word, and never missed when it is gone."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from model_store.errors import Retryable
from serving.platforms.redis import server
from serving.pod.cache.invalidate import invalidate
from tests.bundles import make_bundle, mlp
from tests.pods import RunningPod, running_pod

SERVING = {"cache": {"max_mb": 1, "ttl_seconds": 60, "shared": True}}


def row(*values: float) -> dict[str, Any]:
    return {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": list(values)}]}


class RedisServer:
    """The local stack's server, on a port of its own, that can be stopped, continued and killed."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen([server(), *options], stdout=subprocess.DEVNULL)
        eventually(self.listens)

    def listens(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), 1):
            return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def eventually(happens: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if happens():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.kill()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path, mlp(), serving=SERVING)


def knows_its_epoch(pod: RunningPod) -> bool:
    return all(m.answers.shared.epoch is not None for m in pod.pod.repository.models)  # type: ignore[union-attr]


def test_replicas_share_answers_and_forget_them_together(bundle: Path, redis_server: RedisServer) -> None:
    with (
        running_pod(bundle, redis=redis_server.url) as one,
        running_pod(bundle, redis=redis_server.url) as two,
    ):
        eventually(lambda: knows_its_epoch(one) and knows_its_epoch(two))
        first = one.infer(row(1, 2, 3, 4))
        assert "x-slipway-cache" not in first.headers
        eventually(lambda: two.infer(row(1, 2, 3, 4)).headers.get("x-slipway-cache") in ("redis", "memory"))
        assert two.infer(row(1, 2, 3, 4)).json() == first.json()
        assert two.infer(row(1, 2, 3, 4)).headers["x-slipway-cache"] == "memory"
        assert two.pod.repository.models[0].answers.shared.counts.hits >= 1  # type: ignore[union-attr]

        assert invalidate(redis_server.url, "credit_risk") == 1
        eventually(lambda: not one.infer(row(1, 2, 3, 4)).headers.get("x-slipway-cache"))
        assert invalidate(redis_server.url, "another_model") == 1


def test_another_version_never_finds_this_ones_answers(tmp_path: Path, redis_server: RedisServer) -> None:
    bundles = [make_bundle(tmp_path, mlp(seed=v), version=v, serving=SERVING) for v in (1, 2)]
    answers = []
    for bundle in bundles * 2:
        with running_pod(bundle, redis=redis_server.url) as pod:
            eventually(lambda pod=pod: knows_its_epoch(pod))  # type: ignore[misc]
            answers.append(pod.infer(row(1, 2, 3, 4)).json()["outputs"])
            time.sleep(0.1)
    assert answers[0] == answers[2]
    assert answers[1] == answers[3]
    assert answers[0] != answers[1]


def test_redis_gone_or_hanging_costs_no_request(bundle: Path, redis_server: RedisServer) -> None:
    with running_pod(bundle, redis=redis_server.url) as pod:
        eventually(lambda: knows_its_epoch(pod))
        assert pod.infer(row(0, 0, 0, 0)).status_code == 200
        redis_server.process.send_signal(19)  # SIGSTOP: it accepts and never answers
        start = time.perf_counter()
        assert pod.infer(row(1, 0, 0, 0)).status_code == 200
        # Without the look-up's own limit it would be the socket's, a whole second.
        assert time.perf_counter() - start < 0.9
        assert all(pod.infer(row(2, n, 0, 0)).status_code == 200 for n in range(20))
        redis_server.process.send_signal(18)
        redis_server.kill()
        assert all(pod.infer(row(3, n, 0, 0)).status_code == 200 for n in range(20))
        metrics = pod.http.get("/metrics").text
        assert "slipway_redis_errors_total 0" not in metrics
        assert pod.http.get("/v2/health/ready").status_code == 200


def test_after_redis_comes_back_it_is_used_again(
    bundle: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.pod.cache.link._REST_SECONDS", (0.05, 0.1))
    with running_pod(bundle, redis=redis_server.url) as pod:
        eventually(lambda: knows_its_epoch(pod))
        redis_server.kill()
        assert pod.infer(row(1, 2, 3, 4)).status_code == 200
        redis_server.start()
        shared = pod.pod.repository.models[0].answers.shared  # type: ignore[union-attr]
        before = shared.counts.misses  # type: ignore[union-attr]

        def is_asked(number: list[int] = [0]) -> bool:  # noqa: B006
            number[0] += 1
            pod.infer(row(5, number[0], 0, 0))
            return bool(shared.counts.misses > before and not pod.pod._link.is_resting)  # type: ignore[union-attr]

        eventually(is_asked)


def test_starting_without_redis_is_fine(bundle: Path) -> None:
    with running_pod(bundle, redis="redis://127.0.0.1:1/0") as pod:
        assert pod.infer(row(1, 2, 3, 4)).status_code == 200
        assert pod.http.get("/v2/health/ready").status_code == 200
    with pytest.raises(Retryable):
        invalidate("redis://127.0.0.1:1/0", "credit_risk")

"""A model that is served as it is: by a process of its own, which may do what it likes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from model_store.bundle.publishing import load_bundle
from model_store.engines.base import Engine
from model_store.engines.errors import ModelFault, Unavailable
from model_store.engines.manifest import read_manifest
from model_store.engines.python.engine import PythonEngine, open_engine
from model_store.errors import Permanent
from model_store.sandbox import descendants, resident_bytes
from model_store.stages.served import JudgedModel
from tests.contract.engine_contract import EngineContract
from tests.pyfunc_models import bundle_of, saved_pyfunc

pytestmark = pytest.mark.at_length

TODO = pd.DataFrame({"todo": ["one", "print"] * 16})


@pytest.fixture(scope="module")
def doubling(tmp_path_factory: pytest.TempPathFactory, lasting_environments: Path) -> Path:
    folder = tmp_path_factory.mktemp("doubling")
    example = np.zeros((2, 3), np.float32)
    saved = saved_pyfunc(folder / "model", "doubling", example, example)
    rows = pd.DataFrame(np.arange(96, dtype=np.float32).reshape(32, 3), columns=list("abc"))
    return bundle_of(folder, saved, rows)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory, lasting_environments: Path) -> Path:
    folder = tmp_path_factory.mktemp("troubled")
    example = TODO.head()
    saved = saved_pyfunc(folder / "model", "troubled", example, example.todo.map(len))
    return bundle_of(folder, saved, TODO.assign(todo=["one", "two"] * 16), timeout_ms=500)


@pytest.fixture(scope="module")
def doubler(doubling: Path) -> Iterator[PythonEngine]:
    with closing(open_engine(read_manifest(doubling))) as engine:
        yield engine


class TestTheEngine(EngineContract):
    @pytest.fixture
    def engine(self, doubler: PythonEngine) -> Engine:
        return doubler

    def test_its_memory_is_the_processes_own(self, doubler: PythonEngine) -> None:
        assert doubler.memory_bytes() > 10_000_000


@pytest.fixture
def engine(troubled: Path) -> Iterator[PythonEngine]:
    with closing(open_engine(read_manifest(troubled))) as engine:
        assert asked(engine, "warm") == [4]
        yield engine


def asked(engine: PythonEngine, *todo: str) -> list[int]:
    rows = np.array([[one.encode()] for one in todo], dtype=object)
    return engine.run([rows])[0].ravel().tolist()


def until_up(engine: PythonEngine) -> None:
    while not engine.is_up:
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("todo", "why"),
    [("exit", "exited with status 3"), ("abort", "SIGABRT"), ("segfault", "SIGSEGV"), ("hang", "2 s")],
)
def test_a_process_that_ends_or_hangs_is_started_again_and_counted(
    engine: PythonEngine, todo: str, why: str
) -> None:
    for times in (1, 2):
        with pytest.raises(ModelFault, match=why):
            asked(engine, todo)
        with pytest.raises(Unavailable, match="started again"):
            asked(engine, "one")
        until_up(engine)
        assert engine.restarts == times
        assert asked(engine, "one") == [3]


def test_a_process_that_leaks_is_ended_and_counted(troubled: Path) -> None:
    manifest = read_manifest(troubled)
    held = replace(manifest, settings=replace(manifest.settings, max_memory_mb=800))
    with closing(open_engine(held)) as engine:
        assert asked(engine, "one") == [3]
        while engine.restarts == 0:
            with suppress(ModelFault, Unavailable):
                asked(engine, "leak")
        until_up(engine)
        assert asked(engine, "one") == [3]
        assert engine.restarts == 1
        assert engine.memory_bytes() < 800e6


def test_its_memory_is_not_counted_as_a_gpus(doubling: Path) -> None:
    with closing(JudgedModel.of_bundle(doubling)) as served:
        assert served.gpu_memory_bytes == 0


def test_a_limit_below_what_the_loaded_model_has_is_refused_at_once(troubled: Path) -> None:
    manifest = read_manifest(troubled)
    small = replace(manifest, settings=replace(manifest.settings, max_memory_mb=64))
    with pytest.raises(Permanent, match=r"has \d+ MB as soon as it is loaded, and serving.max_memory_mb"):
        open_engine(small)


# As in a pod: the bundle, this code, and neither a network nor an installer.
ALONE = """
import sys
from contextlib import closing
from pathlib import Path
import numpy as np
from model_store.engines.manifest import read_manifest
from model_store.engines.python.engine import open_engine
with closing(open_engine(read_manifest(Path(sys.argv[1])))) as engine:
    print(engine.run([np.ones((1, 3), np.float32)])[0].tolist())
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode != 0,
    reason="needs unshare --net, which root has",
)
def test_a_pod_makes_the_environment_without_a_network(doubling: Path, tmp_path: Path) -> None:
    environ = {"SLIPWAY_ENVIRONMENTS": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path.cwd())}
    command = ["unshare", "--net", sys.executable, "-c", ALONE, str(doubling)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.stdout == "[[2.0, 2.0, 2.0]]\n", done.stderr


@pytest.mark.parametrize("wrong", ["changed", "missing"])
def test_a_wheel_that_was_not_locked_is_not_installed(doubling: Path, tmp_path: Path, wrong: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(doubling, bundle)
    wheel = next(bundle.rglob("wheels/cloudpickle*.whl"))
    if wrong == "missing":
        wheel.unlink()
    else:
        wheel.write_bytes(wheel.read_bytes() + b"more")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIPWAY_ENVIRONMENTS", str(tmp_path / "environments"))
        with pytest.raises(
            Permanent, match="not the file that was locked" if wrong == "changed" else "the lock names"
        ):
            open_engine(read_manifest(bundle))


def test_a_process_that_somebody_kills_is_started_again(engine: PythonEngine) -> None:
    os.kill(processes_of(engine)[-1], signal.SIGKILL)
    while engine.restarts == 0:
        time.sleep(0.02)
    until_up(engine)
    assert asked(engine, "one") == [3]
    assert engine.restarts == 1


def test_what_a_model_prints_and_raises_is_no_answer(engine: PythonEngine) -> None:
    assert asked(engine, "print", "one") == [5, 3]
    with pytest.raises(ModelFault, match="KeyError: 'no such column'"):
        asked(engine, "raise")
    assert asked(engine, "one") == [3]
    assert engine.restarts == 0


def test_nothing_that_a_model_started_outlives_it(engine: PythonEngine) -> None:
    before = processes_of(engine)
    asked(engine, "fork", "fork")
    running = processes_of(engine)
    assert len(running) == len(before) + 2
    engine.close()
    while any(is_alive(pid) for pid in running):
        time.sleep(0.02)


def processes_of(engine: PythonEngine) -> list[int]:
    """All that the engine runs, the sandbox's first; ids of this machine, for inside it there are others."""
    worker = engine._process._worker
    assert worker is not None
    return descendants(worker.pid)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class PodProcess:
    """`python -m serving.pod`, as platforms start it."""

    def __init__(self, *bundles: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        named = [part for bundle in bundles for part in ("--bundle", str(bundle))]
        command = [sys.executable, "-m", "serving.pod", "--unverified", *named, "--port", str(self.port)]
        self.process = subprocess.Popen(command)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def until(self, path: str, status: int) -> httpx.Response:
        while True:
            assert self.process.poll() is None, "the pod has ended"
            try:
                if (answer := self.http.get(path)).status_code == status:
                    return answer
            except httpx.TransportError:
                pass
            time.sleep(0.02)

    def ask(self, *todo: str, model: str = "odd") -> httpx.Response:
        tensor = {"name": "todo", "datatype": "BYTES", "shape": [len(todo), 1], "data": list(todo)}
        return self.http.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]})

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.http.close()


@pytest.fixture
def pod(troubled: Path, doubling: Path, tmp_path: Path) -> Iterator[PodProcess]:
    with closing(PodProcess(troubled)) as running:
        running.until("/v2/health/ready", 200)
        yield running


def data_of(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"][0]["data"]


def test_a_pod_answers_what_the_model_answers_and_describes_it(pod: PodProcess) -> None:
    assert data_of(pod.ask("three", "four")) == [5, 4]
    told = pod.http.get("/v2/models/odd").json()
    assert told["platform"] == "mlflow_pyfunc"
    assert told["inputs"] == [{"name": "todo", "datatype": "BYTES", "shape": [-1, 1]}]
    assert told["properties"]["precision"] == "original"


def test_a_pod_is_not_ready_while_its_model_is_started_again_and_says_so(pod: PodProcess) -> None:
    assert pod.ask("exit").status_code == 500
    not_ready = pod.until("/v2/health/ready", 503)
    assert "its process ended and is being started again" in not_ready.text
    assert pod.http.get("/v2/models/odd/ready").status_code == 503
    refused = pod.ask("one")
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    pod.until("/v2/health/ready", 200)
    assert data_of(pod.ask("one")) == [3]
    restarts = 'slipway_engine_restarts_total{model="odd",version="1"} 1'
    assert restarts in pod.http.get("/metrics").text


def test_a_model_ends_with_its_pod_also_when_that_is_killed(pod: PodProcess) -> None:
    pod.until("/v2/health/ready", 200)
    started = descendants(pod.process.pid)[1:]
    assert started
    pod.process.kill()
    while any(resident_bytes(pid) for pid in started):
        time.sleep(0.02)


def test_a_hanging_model_keeps_no_other_from_answering(pod: PodProcess) -> None:
    """Health, metadata and refusals come while the model computes for ever."""
    with httpx.Client(base_url=pod.http.base_url, timeout=30) as other:
        tensor = {"name": "todo", "datatype": "BYTES", "shape": [1, 1], "data": ["hang"]}
        with socket.create_connection(("127.0.0.1", pod.port)) as asking:
            body = httpx.Request("POST", "http://x", json={"inputs": [tensor]}).content
            head = f"POST /v2/models/odd/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            asking.sendall(head.encode() + body)
            assert other.get("/v2/health/live").status_code == 200
            assert other.get("/v2/models/odd").status_code == 200
            assert b" 500 " in asking.recv(100)
    pod.until("/v2/health/ready", 200)
    assert data_of(pod.ask("one")) == [3]


def test_wrong_values_are_the_callers_mistake_and_text_may_be_any_alphabets(pod: PodProcess) -> None:
    tensor = {"name": "todo", "datatype": "INT64", "shape": [1, 1], "data": [1]}
    assert pod.http.post("/v2/models/odd/infer", json={"inputs": [tensor]}).status_code == 400
    assert data_of(pod.ask("größer")) == [6]


def test_a_bundle_is_as_it_was_published_after_its_code_has_run(pod: PodProcess, troubled: Path) -> None:
    """Python keeps byte code beside modules, where every file is accounted for."""
    assert data_of(pod.ask("one")) == [3]
    load_bundle(troubled)

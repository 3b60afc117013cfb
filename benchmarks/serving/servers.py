"""Starting and watching the servers under test: each in its own environment and its own process group."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.serving.models import REPOSITORY, oip_body, rows_body

PEER_SERVERS = Path(__file__).resolve().parent / "peer_servers"
START_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Peer:
    """Another model server: what to install, which script starts it, where it answers, what it is sent."""

    name: str
    requirements: tuple[str, ...]
    path: str
    body: Callable[..., bytes] = oip_body


PEERS = {
    peer.name: peer
    for peer in (
        Peer("mlserver", ("mlserver==1.7.1",), "/v2/models/m/infer"),
        Peer("kserve", ("kserve==0.21.0",), "/v2/models/m/infer"),
        Peer("litserve", ("litserve==0.2.19",), "/predict"),
        Peer("bentoml", ("bentoml==1.4.39",), "/predict", rows_body),
        Peer("ray", ("ray[serve]==2.60.0",), "/"),
    )
}


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers. `cpu_seconds` and `memory_mb` are of all its processes."""

    name: str
    url: str
    process: subprocess.Popen[bytes]

    def cpu_seconds(self) -> float:
        return sum(self._each(lambda p: sum(p.cpu_times()[:2])))

    def memory_mb(self) -> float:
        """Proportional, so that pages shared between processes count once."""
        return sum(self._each(lambda p: float(p.memory_full_info().pss))) / 2**20

    def _each(self, ask: Callable[[psutil.Process], float]) -> list[float]:
        found: list[float] = []
        parent = psutil.Process(self.process.pid)
        for process in [parent, *parent.children(recursive=True)]:
            try:
                found.append(ask(process))
            except psutil.Error:
                continue
        return found


def install(peer: Peer) -> Path:
    """The peer's python, its environment made once under `.venvs/`."""
    folder = REPOSITORY / ".venvs" / peer.name
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "-q", "--python", sys.executable, str(folder)], check=True)
    wanted = [*peer.requirements, "onnxruntime==1.31.1"]
    subprocess.run(["uv", "pip", "install", "-q", "--python", str(python), *wanted], check=True)
    return python


@contextmanager
def peer_server(peer: Peer, model: Path, body: bytes) -> Iterator[Running]:
    """The peer, answering."""
    python = install(peer)
    port = free_port()
    environment = {
        **os.environ,
        "BENCH_MODEL": str(model),
        "BENCH_PORT": str(port),
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(PEER_SERVERS),
        "RAY_ADDRESS": "",
    }
    command = [str(python), str(PEER_SERVERS / f"serve_{peer.name}.py")]
    url = f"http://127.0.0.1:{port}{peer.path}"
    with started(peer.name, command, environment, url, body, PEER_SERVERS) as running:
        yield running


@contextmanager
def pod_server(bundle: Path, body: bytes, *options: str, model: str = "m") -> Iterator[Running]:
    """Our pod, answering."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "serving.pod",
        "--unverified",
        "--bundle",
        str(bundle),
        "--port",
        str(port),
        *options,
    ]
    url = f"http://127.0.0.1:{port}/v2/models/{model}/infer"
    with started("slipway", command, dict(os.environ), url, body, REPOSITORY) as running:
        yield running


@contextmanager
def bare_server(body: bytes, *model: Path) -> Iterator[Running]:
    """A server that only reads and answers, after one row of the model if there is one (`bare`)."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.serving.bare", str(port), *map(str, model)]
    with started("bare", command, dict(os.environ), f"http://127.0.0.1:{port}/", body, REPOSITORY) as running:
        yield running


@contextmanager
def started(
    name: str, command: list[str], environment: dict[str, str], url: str, body: bytes, folder: Path
) -> Iterator[Running]:
    """The server of this command, once it answers the body."""
    log = REPOSITORY / ".venvs" / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_until_it_answers(name, process, url, body, log)
        yield Running(name, url, process)
    finally:
        _end(process)


def _wait_until_it_answers(
    name: str, process: subprocess.Popen[bytes], url: str, body: bytes, log: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                if response.status == 200:
                    return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise SystemExit(f"{name} did not start ({error}):\n{tail}") from error
        time.sleep(0.3)


def _end(process: subprocess.Popen[bytes]) -> None:
    """All of the server's processes: it was started as a group of its own."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    _, alive = psutil.wait_procs(children, timeout=5)
    for child in alive:
        child.kill()
    process.wait()


def free_port() -> int:
    """A port whose two successors are free as well: some peers take three."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                for offset in (1, 2):
                    with socket.socket() as other:
                        other.bind(("127.0.0.1", port + offset))
            except OSError:
                continue
            return port

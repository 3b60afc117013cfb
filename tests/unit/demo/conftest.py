"""A real MLflow server in a temporary folder, once for all tests of the demo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from demo.data import prepare
from demo.models import MODEL
from serving.home import Home


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with the demo's data and an empty registry that answers."""
    root = tmp_path_factory.mktemp("home")
    home = Home.locate({"SLIPWAY_HOME": str(root), "SLIPWAY_PORT_MLFLOW": str(free_port())})
    prepare(home.data / MODEL)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(home.ports.mlflow)]
    command += [
        "--backend-store-uri",
        f"sqlite:///{root}/mlflow.db",
        "--artifacts-destination",
        f"{root}/art",
    ]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with (root / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait_until_healthy(f"{home.mlflow_url}/health")
            yield home
        finally:
            server.terminate()
            server.wait(20)


def _wait_until_healthy(url: str, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"{url} did not answer in {seconds} s")

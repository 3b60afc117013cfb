"""A real MLflow server on a free port in a folder of its own, which tests may end and start again.

    from tests.mlflow_server import MlflowServer, mlflow_server  # noqa: F401 - a fixture

One process (uvicorn without `mlflow server` in front), so that `kill` leaves nothing behind.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest


class MlflowServer:
    """`url` stays the same over restarts. Everything it keeps is in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, seconds: float = 90) -> MlflowServer:
        """Start, and return when it answers."""
        (self.folder / "artifacts").mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "uvicorn", "mlflow.server.fastapi_app:app", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--no-access-log"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment(), stdout=log, stderr=log, cwd=self.folder
            )
        deadline = time.monotonic() + seconds
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.kill()
                raise RuntimeError((self.folder / "log").read_text()[-3000:])
            time.sleep(0.1)
        return self

    def kill(self) -> None:
        """As `kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def _environment(self) -> dict[str, str]:
        store = f"sqlite:///{self.folder}/mlflow.db"
        return os.environ | {
            "_MLFLOW_SERVER_FILE_STORE": store,
            "_MLFLOW_SERVER_REGISTRY_STORE": store,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self.folder / "artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SGI_NAME": "uvicorn",
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "only for tests",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One server for all tests of a session; who ends it starts it again."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow")).start()
    try:
        yield server
    finally:
        server.kill()

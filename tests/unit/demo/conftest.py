"""A real MLflow server and the demo's data in a temporary folder, once for all tests of the demo."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.data import prepare
from demo.models import MODEL
from demo.place import DemoHome
from tests.mlflow_server import MlflowServer


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoHome]:
    """A home with the demo's data and an empty registry that answers."""
    root = tmp_path_factory.mktemp("demo-home")
    server = MlflowServer(root / "mlflow")
    home = DemoHome.of({"SLIPWAY_HOME": str(root), "SLIPWAY_PORT_MLFLOW": str(server.port)})
    prepare(home.data / MODEL)
    try:
        server.start()
        yield home
    finally:
        server.kill()

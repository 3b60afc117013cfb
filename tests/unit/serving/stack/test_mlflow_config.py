from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from serving.home import Home, Ports
from serving.stack import mlflow_config
from serving.stack.credentials import credentials_of


def test_the_variables_are_those_that_this_mlflow_reads(tmp_path: Path) -> None:
    """`mlflow server` sets the same ones; they are not documented, so an upgrade could rename them."""
    package = find_spec("mlflow")
    assert package
    assert package.submodule_search_locations
    root = Path(package.submodule_search_locations[0])
    known = "".join((root / name).read_text() for name in ("environment_variables.py", "server/constants.py"))
    ours = mlflow_config.environment(Home(tmp_path, Ports()), credentials_of(Home(tmp_path, Ports())))
    assert [name for name in ours if f'"{name}"' not in known] == []


def test_it_stores_and_listens_only_at_home(tmp_path: Path) -> None:
    home = Home(tmp_path, Ports(mlflow=1234))
    command = mlflow_config.command(home)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "1234"
    ours = mlflow_config.environment(home, credentials_of(home))
    assert ours["_MLFLOW_SERVER_FILE_STORE"] == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert ours["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] == f"{tmp_path}/mlflow/artifacts"

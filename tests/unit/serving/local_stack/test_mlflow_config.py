from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import httpx

from model_store.installation import ROOT as REPOSITORY
from serving.credentials import credentials_of
from serving.home import Home, Ports
from serving.local_stack import mlflow_config, mlflow_webhooks
from serving.supervision.ports import free_ports


def test_the_variables_are_those_that_this_mlflow_reads(tmp_path: Path) -> None:
    """`mlflow server` sets the same ones; they are not documented, so an upgrade could rename them."""
    package = find_spec("mlflow")
    assert package
    assert package.submodule_search_locations
    root = Path(package.submodule_search_locations[0])
    known = "".join((root / name).read_text() for name in ("environment_variables.py", "server/constants.py"))
    ours = mlflow_config.environment(Home(tmp_path, Ports()), credentials_of(Home(tmp_path, Ports())))
    assert [name for name in ours if f'"{name}"' not in known] == [mlflow_webhooks.VARIABLE]


def test_it_stores_and_listens_only_at_home(tmp_path: Path) -> None:
    home = Home(tmp_path, Ports(mlflow=1234))
    command = mlflow_config.command(home)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "1234"
    ours = mlflow_config.environment(home, credentials_of(home))
    assert ours["_MLFLOW_SERVER_FILE_STORE"] == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert ours["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] == f"{tmp_path}/mlflow/artifacts"


def test_its_tables_are_there_before_it_listens(tmp_path: Path) -> None:
    """Else two first requests at once make them twice, and one answers 500: `table ... already exists`."""
    [port] = free_ports(range(20_000, 21_000), 1)
    home = Home(tmp_path, Ports(mlflow=port))
    mlflow_config.make_folders(home)
    environment = os.environ | mlflow_config.environment(home, credentials_of(home))
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            mlflow_config.command(home), env=environment, cwd=REPOSITORY, stdout=log, stderr=log
        )
    try:
        _wait_until_it_listens(home.mlflow_url)
        with closing(sqlite3.connect(mlflow_config.database(home))) as database:
            tables = {name for (name,) in database.execute("select name from sqlite_master")}
    finally:
        server.kill()
        server.wait()
    assert {"experiments", "registered_models", "webhooks"} <= tables, (tmp_path / "log").read_text()[-2000:]


def _wait_until_it_listens(url: str) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            httpx.get(f"{url}/health", trust_env=False)
            return
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)

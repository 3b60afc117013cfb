"""A team with an Airflow of its own writes `pip install`, and has the commands, the DAGs and the page."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.stack import free_port_base, processes_of
from tests.packaging.conftest import Installation

SPEC = "dags/releases/credit_risk.yaml"
DAGS = {
    "deliver_notifications",
    "model_rollback",
    "registry_reconcile",
    "release_credit_risk",
    "store_upkeep",
}
PATIENCE_SECONDS = 240


@pytest.fixture(scope="module", params=["quick", pytest.param("empty", marks=pytest.mark.empty_environment)])
def installation(request: pytest.FixtureRequest) -> Installation:
    installation: Installation = request.getfixturevalue(request.param)
    installation.run("python", "-m", "airflow", "db", "migrate")
    return installation


def table(installation: Installation, *command: str) -> list[dict[str, Any]]:
    """What an Airflow command lists."""
    said = installation.run("python", "-m", "airflow", *command, "--output", "json")
    rows: list[dict[str, Any]] = json.loads(next(line for line in said.splitlines() if line.startswith("[")))
    return rows


def test_the_command_is_there_and_checks_a_spec(installation: Installation) -> None:
    assert "Releases machine-learning models" in installation.run("slipway", "--help")
    assert "is a valid spec" in installation.run("slipway", "validate", SPEC)


def test_code_comes_from_the_package_and_data_goes_to_the_home(installation: Installation) -> None:
    where = "from slipway.model_store.installation import *; print(ROOT, PREFIX, import_paths())"
    root, prefix, paths = installation.run("python", "-c", where).split()
    assert root.startswith(str(installation.environment))
    assert (prefix, paths) == ("slipway.", "[]")
    home = "from slipway.serving.home import *; print(Home.locate({}).root)"
    assert installation.run("python", "-c", home).strip().endswith("/.local/share/slipway")


def test_two_lines_bring_the_dags_of_the_specs_beside_them(installation: Installation) -> None:
    found = table(installation, "dags", "list", "--local")
    assert {row["dag_id"] for row in found} == DAGS
    assert {row["fileloc"] for row in found} == {str(installation.airflow_home / "dags" / "our_models.py")}
    assert "No data found" in installation.run(
        "python", "-m", "airflow", "dags", "list-import-errors", "--local"
    )


def test_airflow_finds_the_plugin_and_the_provider(installation: Installation) -> None:
    (plugin,) = table(installation, "plugins")
    assert (plugin["name"], "slipway_airflow.plugin:SlipwayPlugin" in plugin["source"]) == ("slipway", True)
    assert "slipway" in {row["package_name"] for row in table(installation, "providers", "list")}


@pytest.mark.empty_environment
def test_the_page_answers_in_the_teams_airflow(empty: Installation) -> None:
    with api_server(empty) as url, httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        assert "<svg" in client.get("/slipway/static/mark/mark.svg").text
        # Nobody is signed in: Airflow's login comes first.
        assert client.get("/slipway/").status_code in (302, 303, 307, 401)


@pytest.mark.empty_environment
@pytest.mark.timeout(1200)
def test_the_demo_runs_to_its_end_where_there_is_no_clone(empty: Installation, tmp_path: Path) -> None:
    own = {"SLIPWAY_HOME": str(tmp_path / "demo"), "SLIPWAY_PORT_BASE": str(free_port_base())}
    report = json.loads(empty.run("slipway", "demo", "--json", seconds=1000, **own))
    assert [claim for claim in report["claims"] if not claim["holds"]] == []
    endings = [release["ending"] for release in report["releases"]]
    assert endings == ["promoted", "promoted", "blocked", "rolled_back"]
    assert processes_of(tmp_path / "demo") == []


@contextmanager
def api_server(installation: Installation) -> Iterator[str]:
    """Airflow's API server on a free port, until it answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    command = ["python", "-m", "airflow", "api-server", "--host", "127.0.0.1", "--port", port]
    path = str(installation.python)
    log = installation.airflow_home / "api-server.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, executable=path, env=installation.environ, cwd=installation.airflow_home,
            stdout=file, stderr=file,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, server, log.read_text)
        yield url
    finally:
        server.terminate()
        server.wait(60)


def wait_for(url: str, server: subprocess.Popen[bytes], words: Any) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            if httpx.get(f"{url}/api/v2/version", trust_env=False, timeout=10).is_success:
                return
        except httpx.TransportError:
            time.sleep(1)
    raise AssertionError(f"the API server does not answer:\n{words()}")

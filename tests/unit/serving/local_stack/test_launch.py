"""How a process begins, seen from outside: `become` replaces the process that calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from model_store.installation import ROOT as REPOSITORY
from serving.home import Home, Ports
from serving.ledger.base import URL_VARIABLE
from serving.local_stack.components import common_environment, component, components
from serving.supervision.processes import HOME_MARK, PROGRAM_MARK

BECOME = """
import os
import sys
from pathlib import Path
from serving.home import Home, Ports
from serving.supervision.component import Component
from serving.local_stack.launch import become
show = "import os, json; print(json.dumps([dict(os.environ), os.getcwd(), os.nice(0)]))"
home = Home(Path(sys.argv[1]), Ports())
prepare = lambda: print("prepared", os.environ["OWN"], os.environ["AIRFLOW_HOME"], flush=True)
secrets = tuple(sys.argv[2:])
own = {"OWN": "1"}
become(
    home, Component("shown", (sys.executable, "-c", show), own, prepare=prepare, niceness=3, secrets=secrets)
)
"""


def launch(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SLIPWAY_HOME": str(home.root)}
    return subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, Ports())


def test_a_component_is_prepared_marked_and_started_where_no_modules_lie(home: Home) -> None:
    done = launch(home, "-c", BECOME, str(home.root))
    prepared, shown = done.stdout.splitlines()
    environ, folder, niceness = json.loads(shown)
    # What is prepared (a database) must be this installation's, not the user's own.
    assert prepared == f"prepared 1 {home.airflow}"
    assert environ[HOME_MARK] == str(home.root)
    assert environ[PROGRAM_MARK] == "shown"
    assert environ["OWN"] == "1"
    assert environ["PATH"].startswith(str(Path(sys.executable).parent))
    assert folder == str(home.run)
    assert niceness == min(os.nice(0) + 3, 19)


def test_only_the_controller_is_told_where_the_ledger_is(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [name for name, one in components(home).items() if URL_VARIABLE in one.secrets]
    assert told == ["controller"]
    monkeypatch.setenv(URL_VARIABLE, "postgresql://slipway:secret@db/ledger")
    for arguments, is_told in (((), False), ((URL_VARIABLE,), True)):
        done = launch(home, "-c", BECOME, str(home.root), *arguments)
        environ, *_ = json.loads(done.stdout.splitlines()[1])
        assert (URL_VARIABLE in environ, "secret@db" in done.stdout) == (is_told, is_told)


def test_what_a_killed_predecessor_left_is_ended_first(home: Home) -> None:
    env = {**os.environ, HOME_MARK: str(home.root), PROGRAM_MARK: "shown"}
    with subprocess.Popen(["sleep", "60"], env=env) as left:
        launch(home, "-c", BECOME, str(home.root))
        assert left.wait(timeout=5) == -9
    assert not psutil.pid_exists(left.pid)


@pytest.mark.parametrize("name", [["nobody"], ["pod", "m", "blue", "0"], []])
def test_what_cannot_be_launched_says_why_and_fails(home: Home, name: list[str]) -> None:
    done = launch(home, "-m", "serving.local_stack.launch", *name)
    assert done.returncode == 1
    assert "remedy" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_component_has_an_executable(home: Home) -> None:
    assert len(components(home)) == 7
    for name, known in components(home).items():
        assert os.access(known.argv[0], os.X_OK)
        assert component(home, name).argv == known.argv


def test_components_keep_to_themselves(home: Home) -> None:
    environ = common_environment(home)
    assert environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environ["GX_ANALYTICS_ENABLED"] == "False"
    assert "127.0.0.1" in environ["NO_PROXY"]

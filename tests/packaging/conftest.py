"""Slipway as somebody has it who wrote `pip install`: in an environment and a folder outside the clone.

Two kinds of environment. The quick one is empty but for the wheel, and takes what the wheel asks for from the
environment of these tests. The empty one gets everything from the package index, as the metadata says it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from model_store.installation import ROOT as REPOSITORY

DAG_FILE = """\
from slipway_airflow import dags

globals().update(dags.beside(__file__))
"""


@dataclass(frozen=True)
class Installation:
    """An environment, and the Airflow home of the team it belongs to."""

    environment: Path
    airflow_home: Path

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"

    @property
    def environ(self) -> dict[str, str]:
        """Nothing of the clone, nor of the stack that may run on this machine."""
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        return {
            **kept,
            "PATH": f"{self.environment / 'bin'}{os.pathsep}{os.defpath}",
            "AIRFLOW_HOME": str(self.airflow_home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "SLIPWAY_HOME": str(self.airflow_home / "slipway"),
        }

    def run(self, *command: str | Path, expect: int = 0, seconds: float = 600, **own: str) -> str:
        """What the command prints. It runs where the user happens to be, with `own` in its environment."""
        done = subprocess.run(
            command,
            cwd=self.airflow_home,
            env={**self.environ, **own},
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert done.returncode == expect, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout if expect == 0 else done.stdout + done.stderr


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the build backend makes it, from the tree as it is."""
    return build("wheel", REPOSITORY, tmp_path_factory.mktemp("dist"))


def build(kind: str, source: Path, folder: Path) -> Path:
    """`kind`: wheel or sdist."""
    command = (sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder)
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="session")
def quick(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel, and of everything else what these tests run with."""
    installation = made(tmp_path_factory.mktemp("quick"))
    install(installation, "--no-deps", str(wheel))
    own = subprocess.run(
        [installation.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    (Path(own.stdout.strip()) / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return installation


@pytest.fixture(scope="session")
def empty(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Everything from the package index."""
    installation = made(tmp_path_factory.mktemp("empty"))
    install(installation, f"slipway[airflow,local] @ {wheel.as_uri()}")
    return installation


def made(folder: Path) -> Installation:
    """An environment, and beside it a team's Airflow: a spec, and the two lines that bring the DAGs."""
    subprocess.run([sys.executable, "-m", "venv", folder / "environment"], check=True)
    dags = folder / "airflow" / "dags"
    (dags / "releases").mkdir(parents=True)
    (dags / "our_models.py").write_text(DAG_FILE)
    shutil.copy(REPOSITORY / "dags" / "releases" / "credit_risk.yaml", dags / "releases")
    return Installation(folder / "environment", folder / "airflow")


def install(installation: Installation, *what: str) -> None:
    """By uv where it is: it has a cache."""
    if uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", installation.python]
    else:
        command = [installation.python, "-m", "pip", "install", "--quiet"]
    done = subprocess.run([*command, *what], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""A platform and a metric of other people's, packages of one file each, are found without touching ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import psutil
import pytest

from model_store.storage.place import keys_file
from model_store.types import Bundle, GateReport, ModelRef
from serving.home import Home, Ports
from serving.platforms.base import Platform
from tests.bundles import make_bundle, mlp
from tests.contract.platform_contract import Bundles, PlatformContract
from tests.packaging.conftest import Installation

THIRD_PARTY = Path(__file__).parent / "third_party"

MEASURE = """\
import numpy as np
from slipway.model_store.metrics import Prediction, known, metric
from slipway.model_store.metrics.base import Truth
found = metric("specificity")
assert "specificity" in known("binary") and "specificity" not in known("regression")
truth = Truth(classes=np.array([0, 0, 0, 0, 1]), class_count=2)
print(found.value(truth, Prediction(decisions=np.array([0, 0, 0, 1, 1]))))
"""
PLATFORM = """\
from slipway.model_store.extensions import PLATFORMS
from slipway.serving.home import Home
made = PLATFORMS.load("processes")(Home.locate())
print(PLATFORMS.known(), type(made).__module__, made.deployments())
"""


@pytest.fixture(scope="module")
def extended(quick: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The installation with both packages, each built from its folder and installed by pip's rules."""
    folder = tmp_path_factory.mktemp("third_party")
    for name in ("platform", "metric"):
        source = shutil.copytree(THIRD_PARTY / name, folder / name)
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist"]
        subprocess.run(command, cwd=source, check=True, capture_output=True)
    wheels = [str(wheel) for wheel in (folder / "dist").iterdir()]
    run_pip(quick, "install", "--no-deps", *wheels)
    yield quick
    run_pip(quick, "uninstall", "--yes", "slipway-processes", "slipway-specificity")


def run_pip(installation: Installation, *arguments: str) -> None:
    installation.run(installation.python, "-m", "pip", "--disable-pip-version-check", *arguments)


def test_an_installed_platform_is_one_that_specs_may_name(extended: Installation) -> None:
    spec = extended.airflow_home / "dags" / "releases" / "credit_risk.yaml"
    other = extended.airflow_home / "elsewhere.yaml"
    other.write_text(spec.read_text().replace("target: local", "target: processes"))
    assert "is a valid spec" in extended.run("slipway", "validate", other)
    found = extended.run("python", "-c", PLATFORM).split("\n")[0]
    assert found == "['docker', 'kubernetes', 'local', 'processes'] slipway_processes []"

    other.write_text(spec.read_text().replace("target: local", "target: nomad"))
    said = extended.run("slipway", "validate", other, expect=1)
    assert (
        "serving.target: there are `docker`, `kubernetes`, `local`, `processes`; `nomad` comes with" in said
    )


def test_an_installed_metric_is_found_by_its_name(extended: Installation) -> None:
    assert extended.run("python", "-c", MEASURE).strip() == "0.75"


@pytest.fixture
def bundles(tmp_path: Path) -> Bundles:
    def make(service: str, version: int) -> Bundle:
        keys = keys_file(Home(tmp_path / "home", Ports()).store)
        path = make_bundle(tmp_path, mlp(), name=service, version=version, keys=keys)
        return Bundle(path.name, ModelRef(service, version), (), GateReport("", ()), path)

    return make


@pytest.fixture
def unservable(bundles: Bundles) -> Bundle:
    bundle = bundles("broken", 1)
    (bundle.path / "manifest.json").write_text("{}")
    return bundle


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """By the names of an installed Slipway, which a clone has too."""
    monkeypatch.syspath_prepend(THIRD_PARTY / "platform")
    platform: Platform = import_module("slipway_processes").Processes(Home(tmp_path / "home", Ports()))
    yield platform
    for ref in platform.deployments():
        platform.retire(ref)
    pods = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    assert not [pod for pod in pods if str(tmp_path) in " ".join(pod.cmdline())]


class TestPodsAsPlainProcesses(PlatformContract):
    """Whoever writes a platform has this suite; here it shows that the port can be met by one file."""

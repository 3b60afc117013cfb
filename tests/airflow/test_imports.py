"""Every module is imported, also those that no test and no DAG touches, and uses nothing that goes away."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from model_store.installation import ROOT as REPOSITORY

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.every_python,
    # What libraries use among themselves is theirs; a line of ours that is warned of is an error.
    pytest.mark.filterwarnings("default", r"error:::(model_store|serving|slipway_airflow|demo|examples)\b"),
]

# Wants the environment that the stack gives it, and loads all of MLflow's server; a release runs it.
NOT_HERE = "serving.local_stack.mlflow_app"
PACKAGES = ("model_store", "serving", "plugins/slipway_airflow", "demo", "examples")


def modules(package: Path) -> list[str]:
    files = (file for file in package.rglob("*.py") if file.stem != "__main__")
    names = (".".join(file.relative_to(package.parent).with_suffix("").parts) for file in files)
    return sorted(name.removesuffix(".__init__") for name in names)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_is_imported(package: str, airflow_database: Path) -> None:
    names = modules(REPOSITORY / package)
    assert names
    for name in sorted({*names} - {NOT_HERE}):
        importlib.import_module(name)

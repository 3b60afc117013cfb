"""A real Airflow in a folder of its own: migrated SQLite database, this repository's DAGs and plugins.

The environment is set before anything imports Airflow, which reads it once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
_FOLDER = tempfile.TemporaryDirectory(prefix="slipway-airflow-tests-")
AIRFLOW_HOME = Path(_FOLDER.name)

os.environ |= {
    "AIRFLOW_HOME": str(AIRFLOW_HOME),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
    "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{AIRFLOW_HOME / 'airflow.db'}",
    "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(AIRFLOW_HOME / "logs"),
}


@pytest.fixture(scope="session")
def airflow_database() -> Iterator[Path]:
    """Airflow's database, migrated once a test session (3 s)."""
    from airflow.utils.db import initdb

    initdb()
    yield AIRFLOW_HOME / "airflow.db"
    _FOLDER.cleanup()

"""A real Airflow in a folder of its own: migrated SQLite database, this repository's DAGs and plugins.

The environment is set before anything imports Airflow, which reads it once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.airflow.world import World

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

    from tests.airflow.people import ApiServer

REPOSITORY = Path(__file__).resolve().parents[2]
_FOLDER = tempfile.TemporaryDirectory(prefix="slipway-airflow-tests-")
AIRFLOW_HOME = Path(_FOLDER.name)

# The repository's DAG files beside specs of the tests' own.
DAGS = AIRFLOW_HOME / "dags"
DAGS.mkdir()
for _source in (REPOSITORY / "dags").glob("*.py"):
    (DAGS / _source.name).symlink_to(_source)
(DAGS / "releases").symlink_to(Path(__file__).parent / "releases")

os.environ |= {
    "AIRFLOW_HOME": str(AIRFLOW_HOME),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
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


@pytest.fixture(scope="session")
def bag(airflow_database: Path) -> DagBag:
    """This repository's DAGs beside the specs of these tests."""
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(DAGS))


@pytest.fixture(scope="module")
def in_database(bag: DagBag) -> None:
    """The DAGs as the API server finds them: serialized. Tests of whole runs drop them."""
    from airflow.dag_processing.collection import update_dag_parsing_results_in_db
    from airflow.models.dagbundle import DagBundleModel
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.session import create_session

    with create_session() as session:
        session.merge(DagBundleModel(name="tests"))
        session.flush()
        parsed = [LazyDeserializedDAG.from_dag(dag) for dag in bag.dags.values()]
        update_dag_parsing_results_in_db("tests", None, parsed, {}, None, set(), session)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """What `wire()` returns in this test, and stages that take no time."""
    from model_store import build
    from serving import composition

    world = World(tmp_path)
    monkeypatch.setattr(composition, "wire", lambda home=None: world.services)
    for name, stage in world.stages().items():
        monkeypatch.setattr(build, name, stage)
    return world


@pytest.fixture(scope="module")
def server(in_database: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Airflow's app, with a user for each of its own roles."""
    from tests.airflow.people import SIMPLE, api_server

    with api_server(tmp_path_factory.mktemp("people"), SIMPLE) as server:
        yield server


@pytest.fixture
def api_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_database: None) -> Iterator[World]:
    """What an API server finds that reads this test's home: no runs, and nothing remembered."""
    from serving import composition
    from serving.web import read_api
    from tests.airflow.desk import forget_runs

    forget_runs()
    made = World(tmp_path)
    monkeypatch.setattr(composition, "wire", lambda home=None: made.services)
    read_api.reset()
    yield made
    read_api.reset()

"""What the commands ask Airflow, answered by its own app."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serving.home import Home
from serving.local_stack import apis
from tests.airflow.people import api_server

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]


def test_every_dag_is_found_however_many_there_are(
    in_database: None, bag: DagBag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases = sorted(dag_id for dag_id, dag in bag.dags.items() if "release" in dag.tags)
    assert len(releases) > 2
    monkeypatch.setattr(apis, "PAGE", 2)
    home = Home.locate({"SLIPWAY_HOME": str(tmp_path)})
    with api_server(tmp_path, {"ada": "admin"}) as server:
        api = apis.AirflowApi(server.of("ada"), home)
        assert api.dag_ids("release") == releases

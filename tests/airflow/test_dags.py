"""The DAG files as Airflow parses them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.airflow.world import MODEL

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

pytestmark = pytest.mark.airflow
RELEASE = f"release_{MODEL}"


def test_no_file_fails_to_import(bag: DagBag) -> None:
    assert bag.import_errors == {}


def test_a_bad_spec_hides_no_good_one_and_says_what_is_wrong(bag: DagBag) -> None:
    assert {RELEASE, "release_broken"} <= set(bag.dags)
    refused = bag.dags["release_broken"]
    assert refused.doc_md is not None
    assert "broken.yaml:" in refused.doc_md
    assert "rollout.strategy" in refused.doc_md
    assert "canary" in refused.doc_md


def test_the_story_is_told_in_order(bag: DagBag) -> None:
    dag = bag.dags[RELEASE]
    order = [task.task_id for task in dag.topological_sort()]  # type: ignore[no-untyped-call]
    story = [
        "intake.take_turn",
        "intake.export",
        "candidates.quantize",
        "candidates.compile",
        "candidates.gate",
        "bundle.choose",
        "bundle.publish",
        "rollout.deploy",
        "rollout.roll_out",
        "rollout.promote",
        "rollout.watch",
        "settle",
    ]
    assert [task_id for task_id in order if task_id in story] == story
    assert "intake.check_data" in dag.task_dict["candidates.gate"].upstream_task_ids


def test_the_settlement_is_a_teardown_of_the_lock(bag: DagBag) -> None:
    dag = bag.dags[RELEASE]
    settle = dag.task_dict["settle"]
    assert settle.is_teardown
    assert dag.task_dict["intake.take_turn"].is_setup
    assert "intake.take_turn" in settle.upstream_task_ids


def test_every_task_tells_what_it_does(bag: DagBag) -> None:
    silent = [task.task_id for task in bag.dags[RELEASE].tasks if not getattr(task, "doc_md", None)]
    mapped = {"candidates.quantize", "candidates.compile", "candidates.gate"}
    assert set(silent) <= mapped


def test_every_dag_survives_serialization(bag: DagBag) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    for dag in bag.dags.values():
        again = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
        assert again.task_ids == dag.task_ids


def test_parsing_imports_nothing_heavy() -> None:
    """In a process of its own, as a DAG processor's child."""
    heavy = ["mlflow", "great_expectations", "onnxruntime", "onnx", "pandas", "sklearn", "tensorrt_rtx"]
    code = (
        "import sys; import airflow.sdk; import airflow.triggers.base; before = set(sys.modules);"
        "from airflow.dag_processing.dagbag import DagBag; from airflow.sdk.configuration import conf;"
        "assert DagBag(conf.get('core', 'dags_folder')).dags;"
        f"print([name for name in {heavy} if name in sys.modules and name not in before])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("[]"), done.stdout

"""The DAG files as Airflow parses them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.airflow.world import MODEL

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

pytestmark = [pytest.mark.airflow, pytest.mark.every_python]
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
    line = refused.description or ""
    assert re.match(r"Refused: broken\.yaml:\d+: rollout\.s", line), line
    assert line.endswith("Fix it, then: ./slipway validate")


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
        "rollout.roll_out",
        "rollout.promote",
        "settle",
    ]
    assert [task_id for task_id in order if task_id in story] == story
    assert "intake.check_data" in dag.task_dict["candidates.gate"].upstream_task_ids


def test_stages_in_a_cluster_stand_where_those_of_workers_do(bag: DagBag) -> None:
    here, there = bag.dags[RELEASE], bag.dags["release_clustered"]
    assert there.task_ids == here.task_ids
    for task in here.tasks:
        assert there.task_dict[task.task_id].upstream_task_ids == task.upstream_task_ids, task.task_id
    # As a worker makes one of them; the DAG's own defaults are for tasks that work where they are.
    one = there.task_dict["candidates.quantize"].unmap(
        {"variant": {"precision": "fp32", "layout": "onnxruntime"}}
    )
    assert (one.variant["precision"], one.retries, one.execution_timeout) == ("fp32", 8, None)
    assert there.task_dict["intake.export"].retries == 8
    in_pods = {task.task_id for task in there.tasks if task.task_type == "StagePod"}
    assert in_pods == {"intake.export", "candidates.quantize", "candidates.compile", "candidates.gate"}


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
    heavy = [
        "kubernetes",
        "mlflow",
        "great_expectations",
        "onnxruntime",
        "onnx",
        "pandas",
        "sklearn",
        "tensorrt_rtx",
    ]
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


def test_news_of_the_registry_starts_a_release_and_so_does_the_clock(bag: DagBag) -> None:
    from airflow.timetables.assets import AssetOrTimeSchedule
    from airflow.timetables.trigger import CronTriggerTimetable

    by_news, by_both = (_scheduled(bag, f"release_{model}") for model in (MODEL, "nightly"))
    for dag, model in ((by_news, MODEL), (by_both, "nightly")):
        (asset,) = [one for _, one in dag.timetable.asset_condition.iter_assets()]
        assert (asset.name, asset.extra["alias"]) == (f"registry_{model}", "candidate")
    assert isinstance(by_both.timetable, AssetOrTimeSchedule)
    assert isinstance(by_both.timetable.timetable, CronTriggerTimetable)
    assert not isinstance(by_news.timetable, AssetOrTimeSchedule)


def test_a_deadline_of_the_spec_is_airflows_own(bag: DagBag) -> None:
    from slipway_airflow.notifications import Late

    deadline: Any = bag.dags["release_nightly"].deadline
    alert = deadline[0] if isinstance(deadline, list) else deadline
    assert alert.interval.total_seconds() == 3600
    assert alert.callback.path == f"{Late.__module__}.{Late.__qualname__}"
    assert alert.callback.kwargs == {"model": "nightly", "seconds": 3600.0}
    assert not bag.dags[RELEASE].deadline


def test_a_promotion_changes_an_asset_and_builds_leave_room_for_rollouts(bag: DagBag) -> None:
    from slipway_airflow import pools

    tasks = bag.dags[RELEASE].task_dict
    assert [asset.uri for asset in tasks["rollout.promote"].outlets] == [f"slipway://serving/{MODEL}"]
    assert [asset.uri for asset in tasks["intake.take_turn"].inlets] == [f"slipway://registry/{MODEL}"]
    used = {task.pool for task in bag.dags[RELEASE].tasks}
    made = {one.name for one in pools.pools(parallelism=4)}
    assert used - {"default_pool"} <= made
    assert tasks["candidates.gate"].pool == pools.BUILDS
    assert tasks["rollout.roll_out"].pool == pools.rollouts("local")


def test_a_rollback_comes_before_every_release_and_what_is_nearly_done_before_what_begins(
    bag: DagBag,
) -> None:
    release = {
        task.task_id: task.weight_rule.get_weight(_instance(task)) for task in _scheduled(bag, RELEASE).tasks
    }
    rollback = [
        task.weight_rule.get_weight(_instance(task)) for task in _scheduled(bag, "model_rollback").tasks
    ]
    assert min(rollback) > max(release.values())
    story = [
        "intake.take_turn",
        "intake.export",
        "candidates.gate",
        "rollout.promote",
        "settle",
    ]
    assert sorted(story, key=release.__getitem__) == story


def test_the_form_is_the_dags_and_no_task_has_a_copy(bag: DagBag) -> None:
    dag = _scheduled(bag, RELEASE)
    assert list(dag.params) == ["version", "reason", "dry_run"]
    assert dag.params.get_param("version").schema["type"] == "string"
    assert [task.task_id for task in dag.tasks if list(task.params)] == []


def test_assets_that_are_equal_have_the_same_hash() -> None:
    from airflow.sdk import Asset
    from slipway_airflow.assets import registry_asset

    one, same, other = (registry_asset(*said) for said in (("m", "a"), ("m", "a"), ("m", "b")))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert isinstance(one, Asset)


def test_missing_pools_are_made_and_those_that_somebody_changed_are_kept(airflow_database: Path) -> None:
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session
    from slipway_airflow import pools
    from sqlalchemy import select

    with create_session() as session:
        session.add(Pool(pool=pools.BUILDS, slots=7, description="ours", include_deferred=False))
    pools.make_missing(parallelism=4)
    with create_session() as session:
        slots = dict(session.execute(select(Pool.pool, Pool.slots)).all())
    assert slots[pools.BUILDS] == 7
    assert {one.name for one in pools.pools(parallelism=4)} <= set(slots)


def _instance(task: Any) -> Any:
    """Enough of a task instance for its weight."""
    from types import SimpleNamespace

    return SimpleNamespace(task=task)


def _scheduled(bag: DagBag, dag_id: str) -> Any:
    """The DAG as the scheduler reads it."""
    from airflow.serialization.serialized_objects import DagSerialization

    return DagSerialization.from_dict(DagSerialization.to_dict(bag.dags[dag_id]))

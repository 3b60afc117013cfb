"""Versions that the registry names and nobody released."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from slipway_airflow import triggers
from slipway_airflow.operators import AcquireReleaseLock

from model_store.errors import Retryable
from model_store.types import ModelRef
from serving.control import cooldowns, reconciliation, release_attempts
from serving.control.releases import Cause
from tests.airflow.test_rollbacks import carried_out, released, request
from tests.airflow.world import MODEL, World

NOW = datetime(2026, 11, 21, tzinfo=UTC)
FOLDER = Path(__file__).parent / "releases"


def missed(world: World) -> list[ModelRef]:
    return list(reconciliation.missed(world.services, [world.spec], at=NOW))


def test_a_version_that_the_alias_names_and_nobody_tried_is_missed(world: World) -> None:
    assert missed(world) == [ModelRef(MODEL, 1)]


def test_a_version_that_serves_is_not_missed(world: World) -> None:
    world.serve(1)
    assert missed(world) == []


@pytest.mark.parametrize("status", ["releasing", "promoted", "blocked", "rolled_back"])
def test_a_version_that_was_tried_is_not_tried_again_by_itself(world: World, status: str) -> None:
    world.registry.tags[1] = {"slipway.status": status}
    assert missed(world) == []


def test_a_version_that_a_webhook_has_just_told_of_is_not_missed(world: World) -> None:
    assert world.services.attempts.ask(ModelRef(MODEL, 1), at=NOW)
    assert missed(world) == []
    assert (
        list(reconciliation.missed(world.services, [world.spec], at=NOW + release_attempts.START_TIMEOUT))
        != []
    )


def test_a_version_that_a_run_is_trying_is_not_missed(world: World) -> None:
    world.services.attempts.claim(ModelRef(MODEL, 1), "release_fraud/run-1", at=NOW)
    assert missed(world) == []


def test_a_model_that_is_held_has_nothing_missed(world: World) -> None:
    cooldowns.hold(world.services, MODEL, "it fails whatever serves", at=NOW)
    assert missed(world) == []


def test_a_version_registered_a_moment_ago_may_still_be_asked_for(world: World) -> None:
    a_moment_ago = datetime(2026, 11, 1, 0, 0, 1, tzinfo=UTC)
    assert list(reconciliation.missed(world.services, [world.spec], at=a_moment_ago)) == []


def test_a_model_without_the_alias_is_passed_over(world: World) -> None:
    world.registry.aliases_by_model[MODEL].clear()
    assert missed(world) == []


def test_mlflow_being_down_is_no_reason_to_think_that_nothing_is_missed(world: World) -> None:
    world.registry.gone = {"aliases"}
    with pytest.raises(Retryable):
        missed(world)


def test_one_version_has_one_run_whoever_finds_it() -> None:
    assert reconciliation.run_id_of(ModelRef(MODEL, 7)) == "reconcile__fraud-v7"


def test_a_run_that_could_not_begin_is_made_up_for_by_another(world: World) -> None:
    """MLflow answers, goes down before the version is marked, and the run has no tries left."""
    ref, tried = ModelRef(MODEL, 1), world.services.attempts
    began = world.release(1)
    mine = replace(began, request=replace(began.request, cause=Cause.RECONCILER))
    tried.claim(ref, cooldowns.run_of(mine.request), at=NOW)
    cooldowns.withdraw_not_begun(world.services, mine)
    assert missed(world) == [ref]
    assert reconciliation.run_id_of(ref, tried.withdrawn(ref)) == "reconcile__fraud-v1-2"
    assert tried.claim(ref, "another", at=NOW) == "another"


def test_a_run_that_mlflow_left_before_it_could_claim_the_version_is_made_up_for_by_another(
    world: World,
) -> None:
    asked = replace(world.release(2).request, version="1", cause=Cause.RECONCILER)
    task = AcquireReleaseLock(task_id="take_turn", spec=world.spec)

    def look(run_id: str) -> int:
        context: Any = {"ti": Mock()}
        return task._admitted(context, world.services, replace(asked, run_id=run_id), "1")

    ref, tried = ModelRef(MODEL, 1), world.services.attempts
    first = reconciliation.run_id_of(ref)
    for world.registry.gone in ({"resolve"}, {"describe"}):
        with pytest.raises(Retryable):
            look(first)
    world.registry.gone = set()
    assert missed(world) == [ref]
    second = reconciliation.run_id_of(ref, tried.withdrawn(ref))
    assert second == "reconcile__fraud-v1-3"
    assert look(second) == 1
    with pytest.raises(AirflowSkipException):
        look(first)
    assert missed(world) == []


async def told(trigger: triggers.MissedVersionsTrigger, *, seconds: float) -> list[Any]:
    """The payloads of the first event, however late it comes, and of all within this time after it."""
    payloads: list[Any] = []
    try:
        async with asyncio.timeout(30) as limit:
            async for event in trigger.run():
                if not payloads:
                    limit.reschedule(asyncio.get_running_loop().time() + seconds)
                payloads.append(event.payload)
    except TimeoutError:
        pass
    return payloads


async def test_the_watcher_tells_of_a_missed_version_once(world: World) -> None:
    trigger = triggers.MissedVersionsTrigger(str(FOLDER), seconds=0.01)
    assert await told(trigger, seconds=1) == [["reconcile__fraud-v1"]]


async def test_the_watcher_outlives_an_absence_of_mlflow(world: World) -> None:
    world.registry.down = 3
    trigger = triggers.MissedVersionsTrigger(str(FOLDER), seconds=0.01)
    assert await told(trigger, seconds=1) == [["reconcile__fraud-v1"]]
    assert world.registry.down == 0


async def test_what_is_still_missed_is_told_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "TELL_AGAIN_SECONDS", 0.05)
    trigger = triggers.MissedVersionsTrigger(str(FOLDER), seconds=0.01)
    assert len(await told(trigger, seconds=1)) > 1


@pytest.mark.parametrize(("state", "again"), [("failed", True), ("running", False)])
def test_a_run_that_failed_to_record_its_rollback_is_run_again(
    world: World, bag: Any, monkeypatch: pytest.MonkeyPatch, state: str, again: bool
) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    carried_out(world, replace(request(run_id="alert__x"), at=NOW + timedelta(days=2)))
    monkeypatch.setattr(RuntimeTaskInstance, "get_dagrun_state", staticmethod(lambda *_: state))
    (found,) = bag.dags["registry_reconcile"].task_dict["find_missed"].python_callable()
    assert (found["trigger_dag_id"], found["trigger_run_id"]) == ("model_rollback", "alert__x")
    assert found["reset_dag_run"] is again

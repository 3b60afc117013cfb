"""What is not tried again by itself, and what a person may do about it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.api.datamodels._generated import DagRunType as DagRunTypeInTasks
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred
from slipway_airflow.causes import cause_of, kind_of
from slipway_airflow.operators import AcquireReleaseLock
from slipway_airflow.triggers import CooldownTrigger

from model_store.errors import Permanent
from model_store.types import ModelRef
from serving.control import cooldowns
from serving.control.cooldowns import Admission
from serving.control.releases import Cause, Request
from tests.airflow.test_rollbacks import released
from tests.airflow.world import MODEL, World

AUTOMATIC = [Cause.EVENT, Cause.SCHEDULE, Cause.RECONCILER]
LONG_AFTER = timedelta(days=1)


def request(cause: Cause, *, run: str = "run", reason: str = "") -> Request:
    return Request(f"release_{MODEL}", run, datetime.now(UTC), "candidate", reason, "ada", False, cause)


def admit(world: World, one: Request, *, version: int = 2, at: datetime | None = None) -> Admission:
    ref, at = ModelRef(MODEL, version), at or datetime.now(UTC)
    return cooldowns.admit(world.services, world.spec, ref, one, at=at).admission


@pytest.fixture
def rolled_back(world: World) -> World:
    """v2 was taken back just now, v1 serves."""
    world.serve(1)
    world.rollouts.roll_back(released(world, 2, steps=1), reason="it fails")
    world.registry.tags[2] = {"slipway.status": "rolled_back", "slipway.reason": "it fails"}
    return world


@pytest.mark.parametrize("cause", AUTOMATIC)
def test_a_version_that_was_rolled_back_is_not_tried_again_by_itself(
    rolled_back: World, cause: Cause
) -> None:
    assert admit(rolled_back, request(cause), at=datetime.now(UTC) + LONG_AFTER) is Admission.NEVER


def test_a_person_who_says_why_may_try_it_again(rolled_back: World) -> None:
    assert admit(rolled_back, request(Cause.PERSON, reason="the database was down")) is Admission.NOW


def test_a_person_who_does_not_say_why_is_asked_to(rolled_back: World) -> None:
    with pytest.raises(Permanent, match="it fails"):
        admit(rolled_back, request(Cause.PERSON, reason=" "))


@pytest.mark.parametrize("cause", AUTOMATIC)
def test_another_version_waits_until_the_model_has_cooled_down(rolled_back: World, cause: Cause) -> None:
    at = datetime.now(UTC)
    soon, later = at + timedelta(minutes=9), at + timedelta(minutes=11)
    assert admit(rolled_back, request(cause), version=3, at=soon) is Admission.LATER
    assert rolled_back.services.attempts.of(ModelRef(MODEL, 3)) is None, "it was not tried yet"
    assert admit(rolled_back, request(cause), version=3, at=later) is Admission.NOW


def test_a_person_need_not_wait_until_the_model_has_cooled_down(rolled_back: World) -> None:
    assert admit(rolled_back, request(Cause.PERSON), version=3) is Admission.NOW


def test_whoever_finds_a_version_first_releases_it_alone(world: World) -> None:
    assert admit(world, request(Cause.EVENT, run="webhook")) is Admission.NOW
    assert admit(world, request(Cause.RECONCILER, run="reconciler")) is Admission.NEVER
    assert admit(world, request(Cause.SCHEDULE, run="cron")) is Admission.NEVER
    assert admit(world, request(Cause.EVENT, run="webhook")) is Admission.NOW, "the same run, cleared"


def test_what_a_person_released_is_not_released_again_by_itself(world: World) -> None:
    assert admit(world, request(Cause.PERSON)) is Admission.NOW
    assert admit(world, request(Cause.EVENT, run="webhook")) is Admission.NEVER


def test_a_version_that_serves_is_not_released_again_by_itself(world: World) -> None:
    world.serve(2)
    assert admit(world, request(Cause.SCHEDULE)) is Admission.NEVER


def test_a_dry_run_is_no_try(world: World) -> None:
    assert admit(world, replace(request(Cause.PERSON), dry_run=True)) is Admission.NOW
    assert world.services.attempts.of(ModelRef(MODEL, 2)) is None


def test_a_held_model_changes_only_by_people_and_their_release_ends_the_hold(world: World) -> None:
    cooldowns.hold(world.services, MODEL, "it fails whatever serves", at=datetime.now(UTC))
    assert admit(world, request(Cause.EVENT)) is Admission.NEVER
    assert admit(world, request(Cause.PERSON)) is Admission.NOW
    assert cooldowns.hold_on(world.services, MODEL) is None


def test_a_hold_keeps_its_first_reason(world: World) -> None:
    at = datetime.now(UTC)
    cooldowns.hold(world.services, MODEL, "first", at=at)
    assert cooldowns.hold(world.services, MODEL, "second", at=at + LONG_AFTER).why == "first"


def test_a_release_that_newer_news_overtook_may_come_back_unless_a_person_decided(world: World) -> None:
    overtaken = world.release(2, second=1)
    run = cooldowns.run_of(overtaken.request)
    for cause, may_come_back in ((Cause.EVENT, True), (Cause.PERSON, False)):
        mine = replace(overtaken, request=replace(overtaken.request, cause=Cause.EVENT))
        winner = world.release(3, second=2, run_id=f"winner-{cause}")
        saved = replace(winner, request=replace(winner.request, cause=cause))
        world.keep(saved)
        world.services.attempts.claim(mine.ref, run, at=datetime.now(UTC))
        cooldowns.withdraw_superseded(world.services, mine, saved.id)
        assert (world.services.attempts.of(mine.ref) is None) is may_come_back


class Said(dict[str, str]):
    """The running task instance, as far as an operator hands something on."""

    def xcom_push(self, key: str, value: str) -> None:
        self[key] = value


def test_the_run_of_a_version_that_was_tried_ends_as_skipped_and_says_so(rolled_back: World) -> None:
    said, task = Said(), AcquireReleaseLock(task_id="take_turn", spec=rolled_back.spec)
    context: Any = {"ti": said}
    with pytest.raises(AirflowSkipException):
        task._admitted(context, rolled_back.services, request(Cause.EVENT), "2")
    assert "was tried, and is rolled_back: it fails" in said["ended"]


def test_the_run_of_another_version_waits_without_a_worker_until_the_model_cooled_down(
    rolled_back: World,
) -> None:
    task = AcquireReleaseLock(task_id="take_turn", spec=rolled_back.spec)
    context: Any = {"ti": Said()}
    with pytest.raises(TaskDeferred) as waits:
        task._admitted(context, rolled_back.services, request(Cause.EVENT), "3")
    trigger = waits.value.trigger
    assert isinstance(trigger, CooldownTrigger)
    assert trigger.look() is None
    assert CooldownTrigger(until=time.time() - 1).look()


@pytest.mark.parametrize("as_told", [str, DagRunTypeInTasks])
def test_airflow_says_whether_a_person_asked(as_told: Callable[[str], str]) -> None:
    causes = {
        kind: cause_of(kind_of(SimpleNamespace(run_type=as_told(kind))))
        for kind in ("manual", "scheduled", "asset_triggered", "operator_triggered")
    }
    assert causes == {
        "manual": Cause.PERSON,
        "scheduled": Cause.SCHEDULE,
        "asset_triggered": Cause.EVENT,
        "operator_triggered": Cause.RECONCILER,
    }

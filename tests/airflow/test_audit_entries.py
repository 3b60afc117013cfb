"""Every act of a person is in the audit trail, wherever they acted, once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from serving.control import audit_entries, rollbacks
from serving.control.audit import AuditEntry
from serving.control.releases import Cause
from serving.control.wiring import now
from tests.airflow.desk import BUNDLE, waiting_for_approval
from tests.airflow.test_runs import Runs
from tests.airflow.world import MODEL, World

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]


def trail(world: World) -> list[AuditEntry]:
    return audit_entries.trail_of(world.services).entries()


def test_a_release_asked_for_in_airflows_form_is_noted_once(world: World) -> None:
    release = world.release(2)
    for _ in range(3):
        audit_entries.note_release(world.services, release)
    (entry,) = trail(world)
    assert (entry.who, entry.action, entry.version, entry.release_id) == ("ada", "release", 2, release.id)
    assert entry.detail == {"via": "airflow", "run_id": release.request.run_id}


def test_what_hides_words_is_left_out_of_a_reason_for_every_reader(world: World, bag: DagBag) -> None:
    """Airflow's own form checks no characters."""
    Runs(bag).release("2", reason="better\u202e \x1b[31mrecall\u200b", dry_run=True)
    (release,) = world.releases.of_model(MODEL)
    assert release.request.reason == "better [31mrecall" == trail(world)[0].reason


def test_two_requests_for_one_version_are_two_acts(world: World) -> None:
    for second in (0, 1):
        audit_entries.note_release(world.services, world.release(2, second=second))
    assert len(trail(world)) == 2


@pytest.mark.parametrize(
    "change", [{"cause": Cause.EVENT}, {"cause": Cause.RECONCILER}, {"by": "airflow (scheduled)"}]
)
def test_what_nobody_asked_for_is_nobodys_act(world: World, change: dict[str, Any]) -> None:
    release = world.release(2)
    request = replace(release.request, **change)
    audit_entries.note_release(world.services, replace(release, request=request))
    assert trail(world) == []


def test_a_run_notes_who_started_it(world: World, bag: DagBag) -> None:
    Runs(bag).release("2", reason="better", dry_run=True)
    assert [(entry.who, entry.action, entry.reason) for entry in trail(world)] == [
        ("dag_test", "release", "better")
    ]


def rollback(world: World, by: str, run_id: str) -> rollbacks.RequestedRollback:
    world.serve(1)
    world.serve(2)
    request = rollbacks.RollbackRequest(MODEL, 1, "slow", "", by, run_id, now())
    return rollbacks.begin(world.services, request)


def test_a_persons_rollback_is_noted_once_and_an_alerts_never(world: World) -> None:
    mine = rollback(world, "rita", "run-1")
    audit_entries.note_rollback(world.services, mine)
    audit_entries.note_rollback(world.services, mine)
    audit_entries.note_rollback(world.services, rollback(world, "rita", rollbacks.ALERT_RUN + "x"))
    audit_entries.note_rollback(world.services, rollback(world, "airflow (manual)", "run-2"))
    (entry,) = trail(world)
    assert (entry.who, entry.action, entry.version, entry.detail["leaves"]) == ("rita", "rollback", 1, "2")


@pytest.fixture
def ask(bag: DagBag) -> Any:
    return bag.dags["release_approved"].task_dict["approval.approve_1"]


class Context(dict[str, Any]):
    """What `execute_complete` looks at of a task's context."""

    def __init__(self) -> None:
        ti = type("Ti", (), {"task_id": "approval.approve_1", "xcom_push": lambda *_: None})()
        super().__init__(ti=ti)


def answered(chosen: str, by: str | None, reason: str = "") -> dict[str, Any]:
    return {
        "chosen_options": [chosen],
        "params_input": {"reason": reason, "bundle": BUNDLE} if by else {},
        "responded_at": now(),
        "responded_by_user": {"id": by, "name": by} if by else None,
    }


def test_an_answer_given_in_airflows_own_page_is_noted_with_its_reason(
    world: World, ask: Any, in_database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = waiting_for_approval(world)
    monkeypatch.setattr(ask, "release", release.id)
    monkeypatch.setattr(ask, "bundle", BUNDLE)
    assert ask.execute_complete(Context(), answered("Approve", "grace", "fine")) == "grace"
    (entry,) = trail(world)
    assert (entry.who, entry.action, entry.reason, entry.release_id) == (
        "grace",
        "approve",
        "fine",
        release.id,
    )


def test_a_rejection_is_noted_and_silence_is_not(
    world: World, ask: Any, in_database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    release = waiting_for_approval(world)
    monkeypatch.setattr(ask, "release", release.id)
    monkeypatch.setattr(ask, "bundle", BUNDLE)
    for by in ("grace", None):
        with pytest.raises(AirflowFailException):
            ask.execute_complete(Context(), answered("Reject", by))
    assert [(entry.who, entry.action) for entry in trail(world)] == [("grace", "reject")]


def test_an_answer_over_the_api_is_not_noted_again_by_the_task(
    world: World, ask: Any, in_database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = waiting_for_approval(world)
    detail = {"via": "api", "task": "approval.approve_1", "account": "grace", "bundle": BUNDLE}
    earlier = now() - timedelta(seconds=1)
    audit_entries.trail_of(world.services).append(
        AuditEntry(earlier, "grace", "approve", release.model, release.version, release.id, "fine", detail)
    )
    monkeypatch.setattr(ask, "release", release.id)
    monkeypatch.setattr(ask, "bundle", BUNDLE)
    ask.execute_complete(Context(), answered("Approve", "grace", "fine"))
    assert len(trail(world)) == 1


def test_airflows_own_page_asks_why(ask: Any) -> None:
    assert ask.serialized_params["reason"]["schema"]["maxLength"] == 500


def test_a_version_whose_release_was_aborted_says_by_whom_and_why(world: World, bag: DagBag) -> None:
    world.passing.clear()
    aborted: list[str] = []

    def abort(services: Any, release: Any) -> None:
        entry = AuditEntry(now(), "bob", "abort", release.model, release.version, release.id, "wrong data")
        audit_entries.trail_of(services).append(entry)
        aborted.append(release.id)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_entries, "note_release", abort)
        Runs(bag).release("2")
    assert aborted
    assert world.registry.tags[2]["slipway.reason"].startswith("aborted by bob at ")
    assert world.registry.tags[2]["slipway.reason"].endswith(": wrong data")

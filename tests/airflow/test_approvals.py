"""People who let a release onto traffic."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import pytest

from model_store.errors import Permanent
from tests.airflow.world import World

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag


@pytest.fixture
def ask(bag: DagBag) -> Any:
    """The first approval of a spec that requires two."""
    return bag.dags["release_approved"].task_dict["approval.approve_1"]


def test_every_required_approval_is_a_task_before_the_deployment(bag: DagBag) -> None:
    dag = bag.dags["release_approved"]
    assert dag.task_dict["rollout.deploy"].upstream_task_ids >= {"approval.approve_1", "approval.approve_2"}
    assert "approval.approve_1" in dag.task_dict["approval.approve_2"].upstream_task_ids


def test_a_spec_without_approval_asks_nobody(bag: DagBag) -> None:
    assert not [task_id for task_id in bag.dags["release_fraud"].task_ids if "approv" in task_id]


def test_silence_is_a_no(ask: Any) -> None:
    assert ask.defaults == [ask.REJECT]
    assert ask.response_timeout.total_seconds() == 60
    with pytest.raises(Permanent, match="nobody approved it in time"):
        ask._approver([ask.REJECT], None)


def test_a_rejection_names_who_rejected(ask: Any) -> None:
    with pytest.raises(Permanent, match="grace rejected it"):
        ask._approver([ask.REJECT], {"id": "grace", "name": "grace"})


def test_an_approval_names_who_approved(ask: Any) -> None:
    assert ask._approver([ask.APPROVE], {"id": "ada", "name": "ada"}) == "ada"


def test_nobody_approves_twice_and_the_author_never() -> None:
    from slipway_airflow.approvals import who_may

    assert who_may(["ada", "grace", "linus"], ["ada", "linus"]) == ["grace"]


def test_when_nobody_is_left_nobody_is_asked() -> None:
    """Airflow asks everybody when it is given no names."""
    from slipway_airflow.approvals import who_may

    with pytest.raises(Permanent, match="nobody is left"):
        who_may(["ada"], ["ada", ""])


def test_approvers_see_every_check_beside_its_limit() -> None:
    from slipway_airflow.approvals import evidence_page

    check = {"name": "accuracy", "observed": -0.02, "limit": -0.01, "passed": False}
    gated: Any = {"variant": {"precision": "int8", "layout": "onnxruntime"}, "report": {"checks": [check]}}
    page = evidence_page([gated], "abc")
    assert "| int8 for onnxruntime | accuracy | -0.02 | -0.01 | **missed** |" in page


def approve(world: World, release: Any, who: str, account: str = "") -> None:
    from slipway_airflow import acting
    from slipway_airflow.wiring import now

    said: Any = {"approved": True, "reason": "fine", "task": f"approve by {who}", "at": now()}
    acting.note_answer(world.services, release, who=who, account=account or who, **said)


@pytest.fixture
def release(world: World) -> Any:
    """Of a spec that wants two of ada, grace and linus; whose tasks say that all is well."""
    from slipway_airflow.releases import Request
    from slipway_airflow.wiring import now

    from model_store.spec import load
    from tests.airflow.world import SPEC

    request = Request("release_approved", "run", now(), "2", "better", "rita", False)
    return world.releases.open(request, load(SPEC.parent / "approved.yaml"), lambda _: 2)


@pytest.mark.parametrize("task_id", ["rollout.deploy", "rollout.roll_out"])
def test_an_approval_that_was_only_set_in_airflow_lets_nothing_onto_traffic(
    world: World, bag: DagBag, release: Any, task_id: str
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    task: Any = copy(bag.dags["release_approved"].task_dict[task_id])
    for name in ("release", "bundle", "deployment"):
        object.__setattr__(task, name, release.id)
    approve(world, release, "ada")
    ti = type("Ti", (), {"task_id": task_id, "xcom_push": lambda *_: None})()
    with pytest.raises(AirflowFailException, match="lacks 1 of 2 approvals"):
        task.execute({"ti": ti})
    assert world.router.services() == []


def test_those_who_approved_count_once_and_strangers_never(world: World, release: Any) -> None:
    from slipway_airflow import acting

    for who in ("ada", "ada", "rita"):
        approve(world, release, who)
    with pytest.raises(Permanent, match="lacks 1 of 2"):
        acting.require_approvals(world.services, release)
    approve(world, release, "Grace Hopper", account="grace")
    acting.require_approvals(world.services, release)


def test_one_person_named_twice_counts_once(world: World, release: Any) -> None:
    from slipway_airflow import acting

    object.__setattr__(release.spec.approval, "approvers", ["ada", "7"])
    approve(world, release, "ada", account="7")
    with pytest.raises(Permanent, match="lacks 1 of 2"):
        acting.require_approvals(world.services, release)


@pytest.mark.parametrize(
    ("who", "account", "why"),
    [
        ("linus", "7", "linus made the version"),
        ("grace", "8", "grace approved it before"),
        ("anna", "9", ""),
        ("anna", "7", ""),
    ],
)
def test_an_id_in_the_spec_hides_neither_the_author_nor_who_approved_before(
    world: World, release: Any, who: str, account: str, why: str
) -> None:
    from slipway_airflow import acting

    object.__setattr__(release.spec.approval, "approvers", ["7", "8"])
    said = acting.may_not_approve(world.services, release, who=who, account=account, earlier=["grace"])
    assert said == why


def test_names_need_no_registry_to_tell_the_author(world: World, release: Any) -> None:
    from slipway_airflow import acting

    world.registry.gone = {"author"}
    assert acting.may_not_approve(world.services, release, who="ada", account="7", earlier=[]) == ""


def test_an_answer_in_airflows_page_by_the_author_ends_the_release(
    world: World, release: Any, ask: Any
) -> None:
    from slipway_airflow.wiring import now

    object.__setattr__(release.spec.approval, "approvers", ["7", "8"])
    world.releases.load = lambda _: release  # type: ignore[method-assign]
    task: Any = copy(ask)
    object.__setattr__(task, "release", release.id)
    event = {
        "chosen_options": ["Approve"],
        "params_input": {},
        "responded_at": now(),
        "responded_by_user": {"id": "7", "name": "linus"},
    }
    from airflow.sdk.exceptions import AirflowFailException

    ti = type("Ti", (), {"task_id": "approval.approve_1", "xcom_push": lambda *_, **__: None})()
    with pytest.raises(AirflowFailException, match="linus made the version"):
        task.execute_complete({"ti": ti}, event)

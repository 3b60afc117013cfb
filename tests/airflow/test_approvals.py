"""People who let a release onto traffic."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import pytest

from model_store.errors import Permanent
from serving.control.releases import Releases
from tests.airflow.desk import BUNDLE, OTHER_BUNDLE, under_way
from tests.airflow.world import World

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag


@pytest.fixture
def ask(bag: DagBag) -> Any:
    """The first approval of a spec that requires two."""
    return bag.dags["release_approved"].task_dict["approval.approve_1"]


def test_every_required_approval_is_a_task_before_the_deployment(bag: DagBag) -> None:
    dag = bag.dags["release_approved"]
    assert dag.task_dict["rollout.roll_out"].upstream_task_ids >= {"approval.approve_1", "approval.approve_2"}
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


def test_approvers_see_what_changes_and_where_more_is_to_be_read() -> None:
    from slipway_airflow.approvals import evidence_page

    from serving.control.bundle_comparison import BundleComparison, Figure

    compared = BundleComparison("v1 as fp32", "v2 as int8", (Figure("latency p99", "ms", 4.0, 1.0),), (), ())
    page = evidence_page([], "abc", compared=compared, links={"This release": "http://here/r"})
    assert "[This release](http://here/r)" in page
    assert "| | v1 as fp32 | v2 as int8 | |" in page
    assert "| latency p99 (ms) | 4 | 1 | -75 % |" in page
    assert "The parameters of the training are the same." in page


def answer(
    world: World, release: Any, who: str, account: str = "", *, bundle: str = BUNDLE, approved: bool = True
) -> None:
    from serving.control import audit_entries
    from serving.control.wiring import now

    said: Any = {"approved": approved, "reason": "fine", "task": "approval.approve_1", "at": now()}
    audit_entries.note_answer(world.services, release, who=who, account=account or who, bundle=bundle, **said)


@pytest.fixture
def release(world: World) -> Any:
    """Of a spec that wants two of ada, grace and linus; whose tasks say that all is well."""
    from model_store.release_spec import load
    from serving.control.releases import Request
    from serving.control.wiring import now
    from tests.airflow.world import SPEC

    request = Request("release_approved", "run", now(), "2", "better", "rita", False)
    return world.releases.open(request, load(SPEC.parent / "approved.yaml"), lambda _: 2)


def test_an_approval_that_was_only_set_in_airflow_lets_nothing_onto_traffic(
    world: World, bag: DagBag, release: Any
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    task: Any = copy(bag.dags["release_approved"].task_dict["rollout.roll_out"])
    values = {"release": release.id, "bundle": BUNDLE}
    for name, value in values.items():
        object.__setattr__(task, name, value)
    answer(world, release, "ada")
    ti = type("Ti", (), {"task_id": "rollout.roll_out", "xcom_push": lambda *_: None})()
    with pytest.raises(AirflowFailException, match="lacks 1 of 2 approvals"):
        task.execute({"ti": ti})
    assert world.router.services() == []


def test_those_who_approved_count_once_and_strangers_never(world: World, release: Any) -> None:
    from serving.control import audit_entries

    for who in ("ada", "ada", "rita"):
        answer(world, release, who)
    with pytest.raises(Permanent, match="lacks 1 of 2"):
        audit_entries.require_approvals(world.services, release, BUNDLE)
    answer(world, release, "Grace Hopper", account="grace")
    audit_entries.require_approvals(world.services, release, BUNDLE)


# one bundle and another


def test_approvals_of_a_bundle_are_none_of_another(world: World, release: Any) -> None:
    from serving.control import audit_entries

    for who in ("ada", "grace"):
        answer(world, release, who)
    audit_entries.require_approvals(world.services, release, BUNDLE)
    with pytest.raises(Permanent, match=f"lacks 2 of 2 approvals of bundle {OTHER_BUNDLE}"):
        audit_entries.require_approvals(world.services, release, OTHER_BUNDLE)
    # An answer in the same task, about the other one, is an act of its own.
    answer(world, release, "ada", bundle=OTHER_BUNDLE)
    assert audit_entries.approvers_of(world.services, release, OTHER_BUNDLE) == ["ada"]
    assert audit_entries.approvers_of(world.services, release, BUNDLE) == ["ada", "grace"]


def test_who_changed_their_mind_about_a_bundle_does_not_approve_it(world: World, release: Any) -> None:
    from serving.control import audit_entries

    answer(world, release, "ada")
    answer(world, release, "ada", approved=False)
    answer(world, release, "grace")
    assert audit_entries.approvers_of(world.services, release, BUNDLE) == ["grace"]
    answer(world, release, "ada")
    assert audit_entries.approvers_of(world.services, release, BUNDLE) == ["ada", "grace"]


def test_a_repeated_run_brings_no_other_bytes_onto_traffic_than_those_approved(
    world: World, bag: DagBag, release: Any
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    for who in ("ada", "grace"):
        answer(world, release, who)
    task: Any = copy(bag.dags["release_approved"].task_dict["rollout.roll_out"])
    other = {"release": release.id, "bundle": OTHER_BUNDLE}
    for name, value in other.items():
        object.__setattr__(task, name, value)
    ti = type("Ti", (), {"task_id": "rollout.roll_out", "xcom_push": lambda *_: None})()
    with pytest.raises(AirflowFailException, match="lacks 2 of 2 approvals"):
        task.execute({"ti": ti})
    assert world.router.services() == []


class Asking:
    """A task that asks: what its form says, in place of Airflow's record of it."""

    def __init__(self, task: Any, release: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        from airflow.providers.standard.operators import hitl

        self.task: Any = copy(task)
        self.forms: list[dict[str, Any]] = []
        monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **form: self.forms.append(form))
        object.__setattr__(self.task, "release", release.id)
        object.__setattr__(self.task, "gated", [])
        ti = type("Ti", (), {"task_id": task.task_id, "id": "ti", "xcom_push": lambda *_: None})()
        self.context: Any = {"ti": ti, "task_instance": ti}

    def about(self, bundle: str, *earlier: str) -> Asking:
        object.__setattr__(self.task, "bundle", bundle)
        object.__setattr__(self.task, "earlier", list(earlier))
        return self

    def asks(self) -> dict[str, Any]:
        """The form that people are shown."""
        from airflow.sdk.exceptions import TaskAwaitingInput

        with pytest.raises(TaskAwaitingInput):
            self.task.execute(self.context)
        return self.forms[-1]

    def hears(self, who: str, bundle: str | None, chosen: str = "Approve", *, account: str = "") -> Any:
        from serving.control.wiring import now

        event = {
            "chosen_options": [chosen],
            "params_input": {"reason": "fine"} | ({} if bundle is None else {"bundle": bundle}),
            "responded_at": now(),
            "responded_by_user": {"id": account or who, "name": who},
        }
        return self.task.execute_complete(self.context, event)


@pytest.fixture
def asking(bag: DagBag, release: Any, monkeypatch: pytest.MonkeyPatch) -> Asking:
    return Asking(bag.dags["release_approved"].task_dict["approval.approve_1"], release, monkeypatch)


def built(world: World, release: Any, *bundles: str) -> None:
    from serving.control.wiring import now

    for bundle in bundles:
        world.releases.built(release.id, bundle, at=now())


def test_what_people_are_shown_names_the_bundle(world: World, release: Any, asking: Asking) -> None:
    built(world, release, BUNDLE)
    form = asking.about(BUNDLE).asks()
    assert BUNDLE in form["subject"]
    assert form["body"].startswith(f"Bundle `{BUNDLE}`")
    assert "Asked again" not in form["body"]
    assert form["params"]["bundle"]["value"] == BUNDLE
    assert form["params"]["bundle"]["schema"]["enum"] == [BUNDLE]


def test_the_same_bundle_after_a_repeated_run_keeps_its_approvals(
    world: World, release: Any, asking: Asking
) -> None:
    built(world, release, BUNDLE, BUNDLE)
    for who in ("ada", "grace"):
        answer(world, release, who)
    assert asking.about(BUNDLE).task.execute(asking.context) == "ada"
    assert asking.about(BUNDLE, "ada").task.execute(asking.context) == "grace"
    assert asking.forms == []


def test_another_bundle_after_a_repeated_run_is_asked_about_anew_and_says_why(
    world: World, release: Any, asking: Asking
) -> None:
    built(world, release, BUNDLE, OTHER_BUNDLE)
    for who in ("ada", "grace"):
        answer(world, release, who)
    form = asking.about(OTHER_BUNDLE).asks()
    assert f"about bundle {BUNDLE} does not count" in form["body"]
    assert {one["id"] for one in form["assigned_users"]} == {"ada", "grace"}
    assert asking.hears("grace", OTHER_BUNDLE) == "grace"


@pytest.mark.parametrize("chosen", ["Approve", "Reject"])
@pytest.mark.parametrize("seen", [OTHER_BUNDLE, None])
def test_an_answer_to_what_was_asked_before_is_noted_and_asked_for_again(
    world: World, release: Any, asking: Asking, seen: str | None, chosen: str
) -> None:
    """From a page of Airflow's that was open since before the run was cleared."""
    from airflow.sdk.exceptions import TaskAwaitingInput

    from serving.control import audit_entries

    built(world, release, OTHER_BUNDLE, BUNDLE)
    asking.about(BUNDLE).asks()
    with pytest.raises(TaskAwaitingInput):
        asking.hears("ada", seen, chosen)
    assert len(asking.forms) == 2
    (entry,) = audit_entries.trail_of(world.services).entries()
    assert (entry.who, entry.detail["bundle"]) == ("ada", seen or "")
    assert audit_entries.approvers_of(world.services, release, BUNDLE) == []
    assert asking.hears("ada", BUNDLE) == "ada"
    assert audit_entries.approvers_of(world.services, release, BUNDLE) == ["ada"]


def test_people_are_told_of_each_bundle_once(world: World, release: Any, asking: Asking) -> None:
    from serving.control import notifications

    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notifications, "_put", lambda services, release, name, *rest, **more: told.append(name))
        for bundle in (BUNDLE, BUNDLE, OTHER_BUNDLE):
            asking.about(bundle).asks()
    assert told == [f"approval-1-{BUNDLE}", f"approval-1-{BUNDLE}", f"approval-1-{OTHER_BUNDLE}"]


def test_a_rollout_that_began_goes_on_with_no_other_bundle(world: World) -> None:
    from serving.control import release_deployment

    release = under_way(world)
    with pytest.raises(Permanent, match=f"began with bundle {world.bundle(2).id}"):
        release_deployment.deploy(world.services, release, world.bundle(3).id)


def test_what_a_run_published_is_kept_with_its_release(world: World, release: Any) -> None:
    built(world, release, BUNDLE, BUNDLE, OTHER_BUNDLE, BUNDLE)
    again = world.releases.open(release.request, release.spec, lambda _: 2)
    names = [one.bundle_id for one in again.bundles]
    assert names == [BUNDLE, OTHER_BUNDLE, BUNDLE]


def test_a_rejection_of_an_earlier_run_did_not_end_this_one(world: World, release: Any) -> None:
    from serving.control import audit_entries

    built(world, release, BUNDLE)
    answer(world, world.releases.load(release.id), "ada", approved=False)
    assert "rejected by ada" in audit_entries.ended_by(world.services, world.releases.load(release.id))
    built(world, release, OTHER_BUNDLE)
    assert audit_entries.ended_by(world.services, world.releases.load(release.id)) == ""


def test_one_person_named_twice_counts_once(world: World, release: Any) -> None:
    from serving.control import audit_entries

    object.__setattr__(release.spec.approval, "approvers", ["ada", "7"])
    answer(world, release, "ada", account="7")
    with pytest.raises(Permanent, match="lacks 1 of 2"):
        audit_entries.require_approvals(world.services, release, BUNDLE)


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
    object.__setattr__(release.spec.approval, "approvers", ["7", "8"])
    answer(world, release, "grace", account="8")
    assert may_not(world, release, who, account) == why
    # Of other bytes nobody approved anything, and the task in which they did is theirs.
    if who == "grace":
        assert may_not(world, release, who, account, bundle=OTHER_BUNDLE) == ""
        assert may_not(world, release, who, account, task="approval.approve_1") == ""


def may_not(world: World, release: Any, who: str, account: str, **about: str) -> str:
    from serving.control import audit_entries

    where = {"bundle": BUNDLE, "task": "approval.approve_2", **about}
    return audit_entries.refusal_to_approve(world.services, release, who=who, account=account, **where)


def test_names_need_no_registry_to_tell_the_author(world: World, release: Any) -> None:
    world.registry.gone = {"authors"}
    assert may_not(world, release, "ada", "7") == ""


def test_an_answer_in_airflows_page_by_the_author_ends_the_release_and_is_no_approval(
    world: World, release: Any, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    from serving.control import audit_entries

    object.__setattr__(release.spec.approval, "approvers", ["7", "8"])
    monkeypatch.setattr(Releases, "load", lambda _, release_id: release)
    with pytest.raises(AirflowFailException, match="linus made the version"):
        asking.about(BUNDLE).hears("linus", BUNDLE, account="7")
    assert audit_entries.approvers_of(world.services, release, BUNDLE) == []


def test_who_approved_is_called_as_the_spec_calls_them(world: World, release: Any, asking: Asking) -> None:
    approval = asking.task.approval
    for approvers, called in ((["7", "8"], "7"), (["anna", "grace"], "anna")):
        object.__setattr__(asking.task, "approval", approval.model_copy(update={"approvers": approvers}))
        object.__setattr__(release.spec.approval, "approvers", approvers)
        assert asking.about(BUNDLE).hears("anna", BUNDLE, account="7") == called


# the reason, in Airflow's own form


def test_the_form_has_no_words_that_the_approver_did_not_write(
    world: World, release: Any, asking: Asking
) -> None:
    """Airflow puts what the run was started with into parameters of the same name."""
    built(world, release, BUNDLE)
    asking.about(BUNDLE).task.params["reason"] = "the requester's words"
    assert asking.asks()["params"]["reason"]["value"] == ""


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"reason": "safe\u202etxt.exe\x07"}, "safetxt.exe"),
        ({"reason": "x" * 600}, "x" * 500),
        ({"reason": " \u200d "}, "no reason given in Airflow"),
        ({"reason": ""}, "no reason given in Airflow"),
        ({"reason": None}, "no reason given in Airflow"),
        ({}, "no reason given in Airflow"),
        ({"reason": "zwei\r\nZeilen"}, "zwei\nZeilen"),
    ],
)
def test_the_trail_keeps_a_readable_reason_whatever_airflow_was_sent(
    world: World, release: Any, asking: Asking, said: dict[str, Any], kept: str
) -> None:
    from serving.control import audit_entries
    from serving.control.wiring import now

    event = {
        "chosen_options": ["Approve"],
        "params_input": {"bundle": BUNDLE, **said},
        "responded_at": now(),
        "responded_by_user": {"id": "ada", "name": "ada"},
    }
    assert asking.about(BUNDLE).task.execute_complete(asking.context, event) == "ada"
    (entry,) = audit_entries.trail_of(world.services).entries()
    assert entry.reason == kept


@pytest.mark.parametrize("also", ["ada", "grace"])
def test_neither_of_two_who_may_have_made_the_version_is_asked(
    world: World, release: Any, asking: Asking, also: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(world, release, BUNDLE)
    monkeypatch.setattr(world.registry, "authors", lambda ref: ("linus", also))
    asked = {one["id"] for one in asking.about(BUNDLE).asks()["assigned_users"]}
    assert asked == {"ada", "grace"} - {also}

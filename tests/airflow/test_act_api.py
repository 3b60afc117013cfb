"""What people do over the REST API, what comes of it, and what is written down."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from slipway_airflow import approval_answers, dag_runs

from model_store.registry import RegistryUnavailable
from serving.control import audit_entries, cooldowns, freeze_enforcement, reconciliation
from serving.control.audit import AuditEntry, AuditTrail
from serving.control.client import ControllerClient
from serving.control.release_queue import acquire
from serving.control.rollout.plan import Phase
from serving.control.wiring import now
from serving.ledger import rows
from serving.types import ALL_STABLE, Outcome
from serving.web import interventions
from tests.airflow.desk import (
    API,
    APPROVED,
    BUNDLE,
    OTHER_BUNDLE,
    answer_of,
    ask_about,
    clear_request,
    forget_runs,
    run_states,
    tasks_left,
    under_way,
    waiting_for_approval,
)
from tests.airflow.people import ApiServer, api_server
from tests.airflow.test_rollbacks import released
from tests.airflow.world import MODEL, World

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]
WHY = {"reason": "because"}
PEOPLE = {"ada": "admin", "rita": "user", "bob": "user", "grace": "user", "linus": "user"}


@pytest.fixture(scope="module")
def server(in_database: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("people"), PEOPLE) as server:
        yield server


@pytest.fixture(autouse=True)
def _fresh(in_database: None) -> None:
    forget_runs()


@pytest.fixture
def post(server: ApiServer) -> Any:
    """`post(who, path, **body)`: status and answer."""

    def post(who: str, path: str, **body: Any) -> tuple[int, Any]:
        answer = server.of(who).post(API + path, json={**WHY, **body})
        return answer.status_code, answer.json()

    return post


def trail(world: World) -> list[AuditEntry]:
    return audit_entries.trail_of(world.services).entries()


def acts(world: World) -> list[tuple[str, str, str]]:
    """(who, action, reason) of every entry, the newest first."""
    return [(entry.who, entry.action, entry.reason) for entry in trail(world)]


# release


def test_a_release_starts_its_run_and_says_its_id(world: World, post: Any) -> None:
    status, said = post("rita", "/releases", model=MODEL, version="candidate", reason="better")
    assert (status, said["version"], said["repeated"]) == (202, 1, False)
    assert run_states(f"release_{MODEL}") == ["queued"]
    release = world.releases.load(said["release_id"])
    assert (release.request.run_id, release.request.by) == (said["run"]["run_id"], "rita")
    (entry,) = trail(world)
    assert (entry.who, entry.action, entry.model, entry.version) == ("rita", "release", MODEL, 1)
    assert (entry.release_id, entry.reason) == (release.id, "better")


def test_the_runs_first_task_finds_the_release_it_was_started_for(world: World, post: Any) -> None:
    _, said = post("rita", "/releases", model=MODEL, version="2")
    release = world.releases.load(said["release_id"])
    again = world.releases.open(release.request, world.spec, lambda _: pytest.fail("resolved again"))
    assert again.id == release.id
    audit_entries.note_release(world.services, again)
    assert len(trail(world)) == 1


def test_the_same_version_is_not_released_twice_at_once(world: World, post: Any) -> None:
    _, first = post("rita", "/releases", model=MODEL, version="2")
    status, said = post("bob", "/releases", model=MODEL, version="2")
    assert status == 409
    assert said["detail"].startswith("rita asked for fraud v2 at ")
    assert first["release_id"] in said["detail"]
    assert post("bob", "/releases", model=MODEL, version="3")[0] == 202


def test_of_two_who_press_release_at_the_same_moment_one_wins(world: World, post: Any) -> None:
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(post, who, "/releases", model=MODEL, version="2") for who in ("rita", "bob")]
        answers = sorted((one.result() for one in asked), key=lambda answer: answer[0])
    assert [status for status, _ in answers] == [202, 409]
    assert "asked for fraud v2" in answers[1][1]["detail"]
    assert len(run_states(f"release_{MODEL}")) == 1


def test_a_pipeline_that_asks_again_with_its_key_gets_the_same_release(
    world: World, server: ApiServer
) -> None:
    body, key = {"model": MODEL, "version": "2", **WHY}, {"Idempotency-Key": "build-42"}
    first = server.of("rita").post(f"{API}/releases", json=body, headers=key).json()
    again = server.of("rita").post(f"{API}/releases", json=body, headers=key)
    assert (again.status_code, again.json()["release_id"]) == (202, first["release_id"])
    assert (first["repeated"], again.json()["repeated"]) == (False, True)
    assert len(run_states(f"release_{MODEL}")) == 1
    other = server.of("bob").post(f"{API}/releases", json={**body, "version": "3"}, headers=key)
    assert other.json()["release_id"] != first["release_id"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"model": "nobody", "version": "1"}, 404, "no model nobody"),
        ({"model": "broken", "version": "1"}, 409, "the spec of broken is refused"),
        ({"model": MODEL, "version": "99"}, 404, "fraud has no 99"),
        ({"model": MODEL, "version": "nothing"}, 404, "fraud has no nothing"),
        ({"model": "../x", "version": "1"}, 422, "body.model"),
        ({"model": MODEL, "version": "1; drop"}, 422, "body.version"),
        ({"model": MODEL, "other": 1}, 422, "body.other"),
    ],
)
def test_what_cannot_be_released_is_refused_in_words(
    world: World, post: Any, body: dict[str, Any], status: int, said: str
) -> None:
    answer, problem = post("rita", "/releases", **body)
    assert (answer, said in problem["detail"]) == (status, True), problem
    assert problem["remedy"]
    assert (run_states(f"release_{MODEL}"), trail(world)) == ([], [])


@pytest.mark.parametrize(
    "reason", ["", "   ", "\n", "x" * 501, "a\x00b", "a\x1b[31mb", "safe\u202etxt.exe", None, 7]
)
def test_a_reason_that_is_none_or_hides_something_is_refused(world: World, post: Any, reason: Any) -> None:
    assert post("rita", "/releases", model=MODEL, version="2", reason=reason)[0] == 422
    assert trail(world) == []


@pytest.mark.parametrize(
    "reason", ["<script>alert(1)</script>", '=HYPERLINK("x")', "zwei\nZeilen", "für 中文 🙂"]
)
def test_any_other_reason_is_kept_to_the_letter(
    world: World, post: Any, server: ApiServer, reason: str
) -> None:
    assert post("rita", "/releases", model=MODEL, version="2", reason=reason)[0] == 202
    answer = server.of("rita").get(f"{API}/audit")
    assert answer.json()[0]["reason"] == reason
    assert answer.headers["content-type"] == "application/json"


def test_while_mlflow_is_down_the_answer_is_to_try_again(world: World, post: Any) -> None:
    world.registry.down = 1
    status, problem = post("rita", "/releases", model=MODEL, version="2")
    assert (status, problem["title"], trail(world)) == (503, "Service Unavailable", [])


def test_a_hanging_mlflow_never_hangs_airflows_transaction(world: World, post: Any) -> None:
    world.registry.tags[2] = {"slipway.status": "rolled_back", "slipway.reason": "slow"}
    assert post("rita", "/releases", model=MODEL, version="2", reason="fixed")[0] == 202
    assert world.registry.calls == ["resolve"], "and that before the transaction begins"


# preview


def test_a_preview_says_what_would_run_and_starts_nothing(world: World, server: ApiServer) -> None:
    release = under_way(world)
    shown = server.of("rita").get(f"{API}/releases/preview?model={MODEL}&version=2").json()
    assert (shown["version"], shown["serves_now"], shown["strategy"]) == (2, 1, "canary")
    assert [step["weight"] for step in shown["steps"]] == [10, 100]
    assert (shown["queue"]["position"], shown["queue"]["under_way"]) == (1, release.id)
    assert shown["tried"][0]["outcome"] == "progressing"
    assert f"it waits until {release.id} is over" in shown["warnings"]
    assert run_states(f"release_{MODEL}") == []


def test_a_preview_tells_of_freezes_and_of_what_was_rolled_back(world: World, server: ApiServer) -> None:
    release = under_way(world)
    world.rollouts.roll_back(release.id, reason="too slow")
    freeze_enforcement.freezes_of(world.services).add(None, by="ada", reason="sales", until=None, at=now())
    warnings = server.of("rita").get(f"{API}/releases/preview?model={MODEL}&version=2").json()["warnings"]
    assert "version 2 was rolled back before: too slow" in warnings
    assert "nothing rolls out now, frozen until somebody lifts it: sales (ada)" in warnings


def test_a_preview_names_who_would_be_asked_and_never_the_author(world: World, server: ApiServer) -> None:
    approval = server.of("rita").get(f"{API}/releases/preview?model={APPROVED}&version=1").json()["approval"]
    assert (approval["required"], approval["approvers"], approval["author"]) == (2, ["ada", "grace"], "linus")


# approve and reject


def test_an_approval_is_airflows_own_answer(world: World, post: Any) -> None:
    release = waiting_for_approval(world)
    status, said = post("grace", f"/releases/{release.id}/approve", reason="looks good")
    assert (status, said["answer"], said["still_needed"]) == (200, "approved", 1)
    found = answer_of(release)
    assert (found.chosen_options, found.responded_by["name"]) == (["Approve"], "grace")
    assert str(found.task_instance.state) == "scheduled"
    assert acts(world) == [("grace", "approve", "looks good")]


def test_a_rejection_is_airflows_own_answer(world: World, post: Any) -> None:
    release = waiting_for_approval(world)
    assert post("grace", f"/releases/{release.id}/reject")[0] == 200
    assert answer_of(release).chosen_options == ["Reject"]
    assert acts(world)[0][:2] == ("grace", "reject")


def test_an_answer_names_the_bundle_it_is_about(world: World, post: Any) -> None:
    release = waiting_for_approval(world)
    assert post("grace", f"/releases/{release.id}/approve", bundle=BUNDLE)[0] == 200
    assert trail(world)[0].detail["bundle"] == BUNDLE
    assert answer_of(release).params_input["bundle"] == BUNDLE


@pytest.mark.parametrize("act", ["approve", "reject"])
def test_an_answer_to_another_bundle_than_the_one_asked_about_is_refused(
    world: World, post: Any, act: str
) -> None:
    release = waiting_for_approval(world)
    ask_about(release, OTHER_BUNDLE)
    status, said = post("grace", f"/releases/{release.id}/{act}", bundle=BUNDLE)
    assert status == 409
    assert f"asks about bundle {OTHER_BUNDLE} now, and you were shown bundle {BUNDLE}" in said["detail"]
    assert (trail(world), answer_of(release).response_received) == ([], False)


def test_what_was_approved_of_one_bundle_is_still_needed_of_another(world: World, post: Any) -> None:
    release = waiting_for_approval(world)
    assert post("grace", f"/releases/{release.id}/approve")[1]["still_needed"] == 1
    ask_about(release, OTHER_BUNDLE)
    assert post("ada", f"/releases/{release.id}/approve")[1]["still_needed"] == 1
    ask_about(release, OTHER_BUNDLE)
    assert post("grace", f"/releases/{release.id}/approve")[1]["still_needed"] == 0


def test_an_answer_while_the_run_is_cleared_counts_for_nothing_and_says_so(world: World, post: Any) -> None:
    release = waiting_for_approval(world)
    post("grace", f"/releases/{release.id}/approve")
    clear_request(release)
    status, said = post("ada", f"/releases/{release.id}/approve", bundle=BUNDLE)
    assert (status, "its run was repeated, and will ask when it gets there" in said["detail"]) == (409, True)
    assert [entry.who for entry in trail(world)] == ["grace"]


def test_who_is_not_named_may_not_approve_whatever_their_rights(world: World, post: Any) -> None:
    release = waiting_for_approval(world, allowed=("grace",))
    for who in ("rita", "ada"):
        status, said = post(who, f"/releases/{release.id}/approve")
        assert (status, "is not one of those who may" in said["detail"]) == (403, True)
    assert (answer_of(release).responded_at, trail(world)) == (None, [])


def test_nobody_answers_twice_and_the_second_learns_who_did(world: World, post: Any) -> None:
    release = waiting_for_approval(world)
    post("grace", f"/releases/{release.id}/approve")
    for who, act in (("grace", "approve"), ("ada", "reject")):
        status, said = post(who, f"/releases/{release.id}/{act}")
        assert (status, said["detail"].startswith("grace approved it at ")) == (409, True)
    assert len(trail(world)) == 1


def test_of_two_who_answer_at_the_same_moment_one_wins(world: World, post: Any) -> None:
    release = waiting_for_approval(world)
    acts_asked = [("grace", "approve"), ("ada", "reject")]
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(post, who, f"/releases/{release.id}/{act}") for who, act in acts_asked]
        statuses = sorted(one.result()[0] for one in asked)
    assert statuses == [200, 409]
    assert len(trail(world)) == 1


def test_an_answer_after_the_time_is_over_comes_too_late(world: World, post: Any) -> None:
    release = waiting_for_approval(world, until=now() - timedelta(seconds=1))
    status, said = post("grace", f"/releases/{release.id}/approve")
    assert (status, "the time to answer ended at" in said["detail"]) == (409, True)
    assert answer_of(release).responded_at is None


def test_a_release_that_was_superseded_cannot_be_approved(world: World, post: Any) -> None:
    from airflow.models.xcom import XComModel

    release = waiting_for_approval(world)
    assert post("rita", f"/releases/{release.id}/abort")[0] == 200
    XComModel.set(
        key="ended",
        value="superseded by approved-v3",
        dag_id=release.request.dag_id,
        task_id="intake.take_turn",
        run_id=release.request.run_id,
    )
    status, said = post("grace", f"/releases/{release.id}/approve")
    assert (status, said["detail"]) == (409, f"{release.id} is over: superseded by approved-v3")


def test_a_release_that_asks_nobody_cannot_be_approved(world: World, post: Any) -> None:
    _, said = post("rita", "/releases", model=MODEL, version="2")
    status, problem = post("grace", f"/releases/{said['release_id']}/approve")
    assert (status, "its spec asks for no approval" in problem["detail"]) == (409, True)


# pause, resume, skip, abort


def test_a_pause_holds_the_rollout_and_a_resume_lets_it_go_on(world: World, post: Any) -> None:
    release = under_way(world)
    status, said = post("rita", f"/releases/{release.id}/pause", reason="lunch")
    assert (status, said["paused"], said["candidate_weight"]) == (200, "by rita: lunch", 10)
    world.tick(release.id)
    assert world.journal.load(release.id).step == 0
    assert post("bob", f"/releases/{release.id}/resume", reason="back")[0] == 200
    world.tick(release.id)
    assert world.journal.load(release.id).step == 1
    assert acts(world) == [("bob", "resume", "back"), ("rita", "pause", "lunch")]


def test_who_comes_second_is_told_who_did_what_when(world: World, post: Any) -> None:
    release = under_way(world)
    generation = world.journal.load(release.id).generation
    post("rita", f"/releases/{release.id}/pause", reason="lunch")
    status, said = post("bob", f"/releases/{release.id}/skip", generation=generation)
    assert (status, "changed meanwhile: paused by rita: lunch (" in said["detail"]) == (409, True)
    assert [who for who, _, _ in acts(world)] == ["rita"]


def test_a_skipped_hold_is_written_down(world: World, post: Any) -> None:
    release = under_way(world)
    status, said = post("rita", f"/releases/{release.id}/skip", reason="quiet hour")
    assert (status, said["hold_skipped"], acts(world)) == (200, True, [("rita", "skip", "quiet hour")])


def test_a_hold_is_not_skipped_while_the_verdict_is_against_it(world: World, post: Any) -> None:
    release = under_way(world)
    world.journal.verdicts[0] = Outcome.ERROR
    status, said = post("rita", f"/releases/{release.id}/skip")
    assert (status, "the verdict on" in said["detail"], trail(world)) == (409, True, [])


def test_an_abort_takes_the_traffic_back_at_once(world: World, post: Any) -> None:
    release = under_way(world)
    status, said = post("rita", f"/releases/{release.id}/abort", reason="wrong data")
    assert (status, said["phase"]) == (200, "rolled_back")
    assert world.router.read(MODEL).split == ALL_STABLE
    assert world.journal.load(release.id).reason == "aborted by rita: wrong data"
    assert acts(world) == [("rita", "abort", "wrong data")]
    status, said = post("bob", f"/releases/{release.id}/abort")
    assert (status, "rolled back, aborted by rita: wrong data" in said["detail"]) == (409, True)


@pytest.mark.parametrize("asked", ["abort", "rollback"])
def test_traffic_goes_back_also_when_the_audit_trail_takes_no_line(
    world: World, post: Any, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    def full(trail: AuditTrail, entry: AuditEntry) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    release = under_way(world)
    monkeypatch.setattr(AuditTrail, "append", full)
    path = f"/releases/{release.id}/abort" if asked == "abort" else f"/models/{MODEL}/rollback"
    assert post("rita", path, reason="slow")[0] < 300
    assert world.router.read(MODEL).split == ALL_STABLE


def test_an_abort_before_there_is_traffic_ends_the_run_and_frees_the_queue(world: World, post: Any) -> None:
    _, asked = post("rita", "/releases", model=MODEL, version="2")
    acquire(world.services, world.releases.load(asked["release_id"]))
    status, said = post("bob", f"/releases/{asked['release_id']}/abort")
    assert (status, said["phase"], tasks_left(f"release_{MODEL}")) == (200, "ended", {"settle"})
    assert world.lock.read(MODEL).holder is None
    status, said = post("rita", f"/releases/{asked['release_id']}/abort")
    assert (status, "is over: aborted by bob at" in said["detail"]) == (409, True)


def broken(*_: Any, **__: Any) -> Any:
    raise RegistryUnavailable("the machine is too busy", remedy="try again", delay_seconds=0)


def test_an_abort_that_got_no_further_than_its_entry_is_made_up_for(
    world: World, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, asked = post("rita", "/releases", model=MODEL, version="2")
    acquire(world.services, world.releases.load(asked["release_id"]))
    with monkeypatch.context() as failing:
        failing.setattr(dag_runs, "end", broken)
        assert post("bob", f"/releases/{asked['release_id']}/abort")[0] == 503
    status, said = post("rita", f"/releases/{asked['release_id']}/abort")
    assert (status, "is over: aborted by bob at" in said["detail"]) == (409, True)
    assert (tasks_left(f"release_{MODEL}"), world.lock.read(MODEL).holder) == ({"settle"}, None)


def test_a_rejection_that_got_no_further_than_its_entry_does_not_protect_from_an_abort(
    world: World, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = waiting_for_approval(world)
    with monkeypatch.context() as failing:
        failing.setattr(approval_answers, "_respond", broken)
        assert post("grace", f"/releases/{release.id}/reject")[0] == 503
    assert post("rita", f"/releases/{release.id}/abort")[0] == 409
    assert tasks_left(f"release_{APPROVED}") == {"settle"}


@pytest.mark.parametrize("act", ["pause", "resume", "skip", "abort", "approve", "reject", "override"])
def test_nothing_can_be_done_to_a_release_that_does_not_exist(world: World, post: Any, act: str) -> None:
    status, problem = post("ada", f"/releases/nobody-v1-20261121T000000Z/{act}")
    assert (status, "there is no release nobody-v1" in problem["detail"]) == (404, True)
    assert post("ada", f"/releases/..%2F..%2Fetc/{act}")[0] in (404, 422)


def test_what_does_not_roll_out_yet_cannot_be_paused(world: World, post: Any) -> None:
    _, asked = post("rita", "/releases", model=MODEL, version="2")
    status, said = post("rita", f"/releases/{asked['release_id']}/pause")
    assert (status, "is not rolling out" in said["detail"]) == (409, True)
    assert len(trail(world)) == 1


# roll back


def test_a_rollback_of_a_release_under_way_needs_no_run(world: World, post: Any) -> None:
    release = under_way(world)
    status, said = post("rita", f"/models/{MODEL}/rollback", reason="slow")
    assert (status, said["at_once"], said["release_id"]) == (202, True, release.id)
    assert world.journal.load(release.id).phase is Phase.ROLLED_BACK
    assert run_states("model_rollback") == []
    (entry,) = trail(world)
    assert (entry.action, entry.version, entry.detail["leaves"]) == ("rollback", 1, "2")


def test_a_rollback_to_a_chosen_version_is_a_run(world: World, post: Any) -> None:
    released(world, 1, steps=4)
    world.serve(2)
    world.serve(3)
    world.platform.hold_back(world.bundle(1).id)
    status, said = post("rita", f"/models/{MODEL}/rollback", version=1, reason="slow")
    assert (status, said["at_once"], run_states("model_rollback")) == (202, False, ["queued"])
    (entry,) = trail(world)
    assert (entry.version, entry.detail["run_id"]) == (1, said["run"]["run_id"])
    status, said = post("bob", f"/models/{MODEL}/rollback", reason="slow too")
    assert (status, said["detail"].startswith("rita asked for a rollback of fraud at ")) == (409, True)
    world.platform.release(world.bundle(1).id)
    world.rollouts.jobs.join(20)


def test_a_person_who_rolls_back_ends_a_hold(world: World, post: Any) -> None:
    under_way(world)
    cooldowns.hold(world.services, MODEL, "it failed twice", at=now())
    assert post("rita", f"/models/{MODEL}/rollback")[0] == 202
    assert cooldowns.hold_on(world.services, MODEL) is None


def test_two_who_roll_back_do_not_go_back_two_versions(world: World, post: Any) -> None:
    under_way(world)
    assert post("rita", f"/models/{MODEL}/rollback")[0] == 202
    status, said = post("bob", f"/models/{MODEL}/rollback")
    assert (status, said["detail"].startswith("rita rolled fraud back at ")) == (409, True)
    status, said = post("bob", f"/models/{MODEL}/rollback", from_version=2)
    assert (status, said["detail"].startswith("version 1 serves by now, not 2; rita rolled back")) == (
        409,
        True,
    )


def test_an_abort_before_there_was_traffic_is_no_rollback(world: World, post: Any) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    _, asked = post("rita", "/releases", model=MODEL, version="3")
    assert post("rita", f"/releases/{asked['release_id']}/abort")[0] == 200
    assert post("rita", f"/models/{MODEL}/rollback")[0] == 202
    assert run_states("model_rollback") == ["queued"]


def test_a_rollback_that_got_no_further_than_its_entry_may_be_asked_for_again(
    world: World, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = under_way(world)
    with monkeypatch.context() as failing:
        failing.setattr(world.rollouts, "roll_back", broken)
        assert post("rita", f"/models/{MODEL}/rollback")[0] == 503
    assert post("rita", f"/models/{MODEL}/rollback")[0] == 202
    assert world.journal.load(release.id).phase is Phase.ROLLED_BACK


def test_a_rollback_whose_run_cannot_be_started_is_carried_out_and_recorded_later(
    world: World, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    with monkeypatch.context() as failing:
        failing.setattr(dag_runs, "start", broken)
        status, said = post("rita", f"/models/{MODEL}/rollback")
    assert (status, said["run"]) == (202, None)
    world.rollouts.jobs.join(20)
    assert world.router.read(MODEL).stable.version == 1  # type: ignore[union-attr]
    assert post("rita", f"/models/{MODEL}/rollback")[0] == 409
    later = now() + timedelta(minutes=1)
    assert [one.returns for one in reconciliation.unrecorded_rollbacks(world.services, at=later)] == [1]


def test_while_the_controller_is_down_a_rollback_says_so_and_may_be_asked_for_again(
    world: World, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    with monkeypatch.context() as down:
        down.setattr(world.rollouts, "roll_model_back", ControllerClient(world.home).roll_model_back)
        status, said = post("rita", f"/models/{MODEL}/rollback")
    assert (status, "the controller does not answer" in said["detail"]) == (503, True)
    assert post("rita", f"/models/{MODEL}/rollback")[0] == 202


@pytest.mark.parametrize(
    ("version", "status", "said"),
    [(1, 409, "serves already"), (4, 404, "has no bundle of fraud v4"), (0, 422, "body.version")],
)
def test_a_rollback_to_nowhere_is_refused(
    world: World, post: Any, version: int, status: int, said: str
) -> None:
    world.serve(1)
    answer, problem = post("rita", f"/models/{MODEL}/rollback", version=version)
    assert (answer, said in problem["detail"]) == (status, True), problem
    assert trail(world) == []


def test_a_name_somebody_made_up_leaves_nothing_behind(world: World, post: Any) -> None:
    status, problem = post("rita", "/models/made-up/rollback")
    assert (status, problem["detail"]) == (404, "no version of made-up serves")
    assert world.rows.find(rows.NoteRow, model="made-up") == []


# freezes


def test_a_freeze_holds_releases_until_it_is_lifted(world: World, post: Any, server: ApiServer) -> None:
    status, made = post("ada", "/freezes", reason="sales", hours=2)
    assert (status, made["by"], made["source"]) == (201, "ada", "person")
    assert [one["id"] for one in server.of("rita").get(f"{API}/freezes").json()] == [made["id"]]
    assert post("ada", f"/freezes/{made['id']}/lift", reason="over")[0] == 200
    assert server.of("rita").get(f"{API}/freezes").json() == []
    status, said = post("ada", f"/freezes/{made['id']}/lift")
    assert (status, "ada lifted it already" in said["detail"]) == (409, True)
    assert acts(world) == [("ada", "lift freeze", "over"), ("ada", "freeze", "sales")]


def test_delete_lifts_a_freeze_too(world: World, post: Any, server: ApiServer) -> None:
    _, made = post("ada", "/freezes", model=MODEL)
    answer = server.of("ada").delete(f"{API}/freezes/{made['id']}", params={"reason": "over"})
    assert (answer.status_code, acts(world)[0]) == (200, ("ada", "lift freeze", "over"))


def test_an_admin_releases_in_spite_of_a_freeze(world: World, post: Any) -> None:
    post("ada", "/freezes", reason="sales")
    _, said = post("ada", "/releases", model=MODEL, version="2", override_freeze=True, reason="hotfix")
    assert freeze_enforcement.holding(world.services, world.releases.load(said["release_id"])) is None
    assert acts(world)[0] == ("ada", "override freeze", "hotfix")
    status, problem = post("ada", f"/releases/{said['release_id']}/override")
    assert (status, problem["detail"].startswith("ada overrode the freezes for")) == (409, True)


def test_an_override_that_got_lost_is_made_up_for_by_the_repeat(
    world: World, server: ApiServer, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    post("ada", "/freezes", reason="sales")
    body, key = {"model": MODEL, "version": "2", "override_freeze": True, **WHY}, {"Idempotency-Key": "b-1"}

    def ask() -> int:
        return int(server.of("ada").post(f"{API}/releases", json=body, headers=key).status_code)

    with monkeypatch.context() as failing:
        failing.setattr(interventions, "override", broken)
        assert ask() == 503
    (release,) = world.releases.of_model(MODEL)
    assert freeze_enforcement.holding(world.services, release) is not None
    assert (ask(), freeze_enforcement.holding(world.services, release)) == (202, None)
    assert ask() == 202, "and when nothing is left to do"
    assert [action for _, action, _ in acts(world)] == ["override freeze", "release", "freeze"]


def test_who_resumes_a_frozen_rollout_is_told_of_the_freeze(world: World, post: Any) -> None:
    release = under_way(world)
    post("ada", "/freezes", reason="sales")
    freeze_enforcement.enforce(world.services, world.journal.load(release.id), release)
    status, said = post("rita", f"/releases/{release.id}/resume")
    assert (status, "frozen until somebody lifts it: sales (ada)" in said["detail"]) == (409, True)


def test_a_freeze_never_holds_a_rollback(world: World, post: Any) -> None:
    under_way(world)
    post("ada", "/freezes")
    assert post("rita", f"/models/{MODEL}/rollback")[0] == 202
    assert world.router.read(MODEL).split == ALL_STABLE


# the audit trail


def test_the_audit_trail_is_found_by_model_and_time(world: World, post: Any, server: ApiServer) -> None:
    post("ada", "/freezes", model=MODEL)
    post("ada", "/freezes", model=APPROVED)
    asked = server.of("rita").get
    assert [one["model"] for one in asked(f"{API}/audit", params={"model": MODEL}).json()] == [MODEL]
    assert asked(f"{API}/audit", params={"since": (now() + timedelta(hours=1)).isoformat()}).json() == []
    assert len(asked(f"{API}/audit", params={"since": "2026-01-01T00:00:00"}).json()) == 2
    assert len(asked(f"{API}/audit", params={"limit": 1}).json()) == 1
    moments = ("yesterday", "2", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-10:00")
    for wrong in ({"limit": 0}, {"model": "<b>"}, *({"since": moment} for moment in moments)):
        assert asked(f"{API}/audit", params=wrong).status_code == 422

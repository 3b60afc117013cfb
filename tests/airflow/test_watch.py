"""After promotion there is no run any more: what the controller does in a watch, and what is told of it."""

from __future__ import annotations

import pytest

from model_store.errors import Permanent
from model_store.release_spec.notify import Notify
from serving.control import notifications, reconciliation, rollbacks, wiring
from serving.control.controller.settlement import Settlement, settle
from serving.control.queries import outcomes
from serving.control.queries.outcomes import ReleaseOutcome
from serving.control.releases import Release
from serving.control.rollbacks import RequestedRollback
from serving.control.rollout.lock import Claim
from serving.control.rollout.plan import Phase
from serving.types import Outcome
from tests.airflow.desk import under_way
from tests.airflow.test_runs import Runs, runs, served
from tests.airflow.world import MODEL, World

__all__ = ["runs"]

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]


def promoted(world: World, runs: Runs) -> Release:
    """v2 after v1, promoted by its run, and watched."""
    world.serve(1)
    assert runs.release("2").state == "success"
    release = world.releases.of_model(MODEL)[-1]
    assert world.journal.load(release.id).phase is Phase.WATCHING
    return release


def watched(world: World) -> Release:
    """The same, as its run left it."""
    release = under_way(world, 2)
    receiver = Notify(to="webhook", url_env="URL", secret_env="SECRET")
    spec = release.spec.model_copy(update={"notify": (receiver,)})
    world.releases.open(release.request, spec, lambda _: 2)
    while world.tick(release.id).phase is Phase.PROGRESSING:
        continue
    world.lock.release(MODEL, release.id)
    ended = ReleaseOutcome(release.id, "promoted", "passed every step", wiring.now())
    outcomes.save(world.rows, ended)
    return release


def failed_in_its_watch(world: World, release: Release) -> RequestedRollback:
    """Everything that the controller does, with Airflow away; the run that is then to be made."""
    world.journal.verdicts[world.journal.load(release.id).step] = Outcome.FAIL
    world.tick(release.id)
    world.settle()
    (to_record,) = reconciliation.unrecorded_rollbacks(world.services, at=wiring.now())
    return to_record


def recorded(runs: Runs, back: RequestedRollback) -> str:
    """How the run ended that `registry_reconcile` starts for it."""
    from airflow.models.dagrun import DagRun

    asked = back.request
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DagRun, "generate_run_id", lambda **_: asked.run_id)
        said = {"model": MODEL, "version": str(back.returns), "reason": asked.reason}
        return runs.run("model_rollback", at=asked.at, **said).state


def told(world: World, release: Release) -> set[str]:
    messages = (entry.message for entry in notifications.outbox_of(world.services).due(at=wiring.now()))
    return {message.occasion for message in messages if message.id.startswith(release.id)}


def test_a_run_ends_with_the_promotion_and_leaves_the_way_back_warm(world: World, runs: Runs) -> None:
    promoted(world, runs)
    world.settle()
    assert (served(world), world.registry.champion, world.registry.tags[2]["slipway.status"]) == (
        2,
        2,
        "promoted",
    )
    assert sorted(pods.version for pods in world.platform.deployments(MODEL)) == [1, 2]
    assert world.lock.read(MODEL).holder is None


def test_after_the_watch_the_controller_retires_the_version_before(world: World) -> None:
    release = watched(world)
    assert world.tick(release.id).phase is Phase.DONE
    world.settle()
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [2]
    assert world.lock.read(MODEL).holder is None


def test_a_canary_that_fails_without_airflow_leaves_neither_pods_nor_a_lock(world: World) -> None:
    release = under_way(world, 2)
    world.rollouts.roll_back(release.id, reason="errors")
    world.settle()
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [1]
    assert world.router.read(MODEL).candidate is None
    assert world.lock.read(MODEL).holder is None
    assert reconciliation.unrecorded_rollbacks(world.services, at=wiring.now()) == [], "its own run tells it"


def test_what_fails_in_its_watch_is_told_to_people_and_left_for_a_run_of_its_own(world: World) -> None:
    release = watched(world)
    to_record = failed_in_its_watch(world, release)
    assert served(world) == 1
    assert told(world, release) == {"rolled_back"}
    assert (to_record.leaves, to_record.returns) == (2, 1)
    assert to_record.request.run_id == f"watch__{release.id}"
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [1]
    world.settle()
    assert len(rollbacks.all_of(world.services, MODEL)) == 1, "it is one way back, however often it is seen"


def test_the_run_that_records_a_way_back_corrects_all_that_said_promoted(world: World, runs: Runs) -> None:
    release = promoted(world, runs)
    back = failed_in_its_watch(world, release)
    assert recorded(runs, back) == "success"
    assert world.registry.champion == 1
    assert world.registry.tags[2]["slipway.status"] == "rolled_back"
    assert "candidate is fail" in world.registry.tags[2]["slipway.reason"]
    evidence = world.registry.evidence[release.id]
    assert (evidence.status, evidence.tags["slipway.status"]) == ("FAILED", "rolled_back")
    known = outcomes.of(world.rows, release.id)
    assert known is not None
    assert (known.status, bool(known.evidence_url)) == ("rolled_back", True)
    assert reconciliation.unrecorded_rollbacks(world.services, at=wiring.now()) == []


def test_evidence_that_mlflow_did_not_take_is_written_by_the_next_run(world: World, runs: Runs) -> None:
    release = promoted(world, runs)
    back = failed_in_its_watch(world, release)
    world.registry.gone = {"log_evidence"}
    assert recorded(runs, back) == "failed"
    assert reconciliation.unrecorded_rollbacks(world.services, at=wiring.now())
    world.registry.gone = set()
    assert recorded(runs, back) == "success"
    assert world.registry.evidence[release.id].status == "FAILED"


def test_a_persons_rollback_in_the_watch_has_one_run_that_records_both(world: World, runs: Runs) -> None:
    release = promoted(world, runs)
    run = runs.run("model_rollback", model=MODEL, reason="users complain")
    assert run.state == "success"
    world.settle()
    assert reconciliation.unrecorded_rollbacks(world.services, at=wiring.now()) == []
    assert world.registry.evidence[release.id].status == "FAILED"
    assert "users complain" in world.registry.tags[2]["slipway.reason"]


def test_a_first_version_that_is_aborted_in_its_watch_leaves_no_champion(world: World, runs: Runs) -> None:
    assert runs.release("1").state == "success"
    (release,) = world.releases.of_model(MODEL)
    world.rollouts.roll_back(release.id, reason="aborted by bo: not now")
    world.settle()
    (to_record,) = reconciliation.unrecorded_rollbacks(world.services, at=wiring.now())
    assert recorded(runs, to_record) == "success"
    assert world.registry.champion is None
    assert world.registry.tags[1]["slipway.status"] == "rolled_back"


def test_a_newer_release_that_has_the_lock_is_not_disturbed(world: World) -> None:
    release = watched(world)
    newer = world.release(3, second=30)
    claim = Claim(newer.request.at, newer.id)
    world.lock.acquire(MODEL, claim)
    world.rollouts.roll_back(release.id, reason="errors")
    state = world.journal.load(release.id)
    assert not settle(world.services, state)
    assert world.lock.read(MODEL).holder == claim
    assert sorted(pods.version for pods in world.platform.deployments(MODEL)) == [1, 2]
    world.lock.release(MODEL, newer.id)
    assert settle(world.services, state)
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [1]


def test_pods_that_cannot_be_ended_now_are_ended_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    release = watched(world)
    world.rollouts.roll_back(release.id, reason="errors")
    clock = [0.0]
    settlement = Settlement(
        lambda: world.services,
        monotonic=lambda: clock[0],
        linger_seconds=0,
    )
    settlement.latest = {MODEL: world.journal.load(release.id)}
    with monkeypatch.context() as patched:
        patched.setattr(world.platform, "retire", _refuse)
        settlement.look()
    assert sorted(pods.version for pods in world.platform.deployments(MODEL)) == [1, 2]
    clock[0] = 60.0
    settlement.look()
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [1]


def _refuse(*_: object) -> None:
    raise Permanent("the cluster refuses", remedy="ask it")

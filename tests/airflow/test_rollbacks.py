"""Back to an earlier version on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from model_store.errors import Permanent
from model_store.registry import RegistryUnavailable
from model_store.release_spec.notify import Notify
from serving.control import (
    cooldowns,
    notifications,
    reconciliation,
    release_deployment,
    rollback_records,
    rollbacks,
)
from serving.control.queries import snapshots
from serving.control.release_queue import QueueState, acquire, release_lock, require_lock
from serving.control.releases import Release, Releases
from serving.control.rollbacks import AlreadyRolledBack, RequestedRollback, RollbackRequest
from serving.control.rollout.lock import Claim, LockState
from serving.control.rollout.plan import Phase
from serving.control.traffic import RollbackPhase, RollbackProgress
from serving.ledger import rows
from serving.ledger.base import Unreachable
from serving.types import ALL_STABLE, Slot, TrafficSplit
from tests.airflow.world import MODEL, World


def request(version: int | None = None, *, second: int = 0, run_id: str = "r") -> RollbackRequest:
    at = datetime(2026, 11, 22, 8, 0, second, tzinfo=UTC) if second else datetime.now(UTC)
    return RollbackRequest(MODEL, version, "users complain", "INC-7", "grace", run_id, at)


def begun(world: World, release: Release) -> None:
    """The release has the lock: its pods stand, and its rollout begins."""
    deployment = release_deployment.deploy(world.services, release, world.bundle(release.version).id)
    world.rollouts.start(release.id, deployment.id)


def released(world: World, version: int, *, steps: int) -> str:
    """A release of `version`, `steps` steps on its way (4: over)."""
    release = world.release(version, second=version)
    acquire(world.services, release)
    begun(world, release)
    for _ in range(steps):
        world.tick(release.id)
    world.lock.release(MODEL, release.id)
    return release.id


def test_a_watched_version_leaves_by_one_weight_change(world: World) -> None:
    world.serve(1)
    release = released(world, 2, steps=3)
    writes = world.router.read(MODEL).revision
    rollback = rollbacks.begin(world.services, request())
    route = world.router.read(MODEL)
    assert (rollback.leaves, rollback.returns) == (2, 1)
    assert rollbacks.serving_again(world.services, rollback)
    assert route.split == TrafficSplit(100, 0)
    assert route.revision - writes <= 2
    assert world.journal.load(release).phase is Phase.ROLLED_BACK
    assert "INC-7" in world.journal.load(release).reason


def test_a_version_that_was_built_and_never_rolled_out_is_nothing_to_go_back_to(world: World) -> None:
    world.serve(1)
    released(world, 2, steps=4)
    world.bundle(3)
    assert rollbacks.bundle_of(world.services, MODEL, 2)
    with pytest.raises(Permanent, match="no bundle of fraud v3 that was ever rolled out"):
        rollbacks.bundle_of(world.services, MODEL, 3)


def test_a_canary_leaves_at_once_without_the_lock(world: World) -> None:
    world.serve(1)
    released(world, 2, steps=1)
    world.lock.acquire(MODEL, Claim(datetime.now(UTC), "someone"))
    rollbacks.begin(world.services, request())
    assert world.router.read(MODEL).split == TrafficSplit(100, 0)


def test_a_version_that_stands_no_more_is_started_from_its_bundle(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    rollback = rollbacks.begin(world.services, request())
    assert (rollback.leaves, rollback.returns) == (2, 1)
    assert not rollbacks.serving_again(world.services, rollback)
    assert rollbacks.acquire_lock(world.services, rollback)
    deployment = rollbacks.deploy(world.services, rollback)
    rollbacks.switch_traffic(world.services, rollback, deployment.id)
    assert rollbacks.serving_again(world.services, rollback)
    assert world.built == []


def shown(world: World, rollback: RequestedRollback) -> snapshots.RollbackSnapshot:
    return snapshots.rollback_snapshot(world.rows.get(rows.RequestRow, rollback.id))


def test_a_rollback_keeps_when_the_traffic_went_back(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    rollback = rollbacks.begin(world.services, request())
    assert shown(world, rollback).switched_at is None
    rollbacks.acquire_lock(world.services, rollback)
    deployment = rollbacks.deploy(world.services, rollback)
    rollbacks.switch_traffic(world.services, rollback, deployment.id)
    switched = shown(world, rollback).switched_at
    assert switched is not None
    rollbacks.switch_traffic(world.services, rollback, deployment.id)
    assert shown(world, rollback).switched_at == switched
    assert rollbacks.load(world.services, rollback.id) == rollback


def test_a_named_version_is_found_among_the_bundles(world: World) -> None:
    for version in (1, 2, 3):
        released(world, version, steps=4)
    rollback = rollbacks.begin(world.services, request(1))
    assert rollbacks.acquire_lock(world.services, rollback)
    deployment = rollbacks.deploy(world.services, rollback)
    assert deployment.bundle_id == world.bundle(1).id


def test_a_version_without_a_bundle_is_refused_with_those_that_have_one(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    with pytest.raises(Permanent) as refused:
        rollbacks.bundle_of(world.services, MODEL, 9)
    assert "1, 2" in refused.value.remedy


def test_the_first_version_has_nothing_to_go_back_to(world: World) -> None:
    released(world, 1, steps=4)
    with pytest.raises(Permanent, match="no version served before"):
        rollbacks.begin(world.services, request())


def test_a_version_that_serves_is_no_version_to_go_back_to(world: World) -> None:
    released(world, 1, steps=4)
    with pytest.raises(Permanent, match="serves already"):
        rollbacks.begin(world.services, request(1))


def test_alias_tags_and_evidence_follow(world: World) -> None:
    world.serve(1)
    released(world, 2, steps=3)
    rollback = rollbacks.begin(world.services, request())
    booked = rollback_records.record(world.services, rollback, at=datetime.now(UTC))
    assert (booked.words, booked.evidence is not None) == ("version 1 is champion", True)
    assert world.registry.champion == 1
    assert world.registry.tags[2]["slipway.status"] == "rolled_back"
    assert world.registry.tags[2]["slipway.incident"] == "INC-7"
    assert "users complain" in world.registry.evidence[rollback.id].description


def test_a_version_that_mlflow_no_longer_has_comes_back_and_is_no_champion(world: World) -> None:
    world.serve(1)
    released(world, 2, steps=3)
    world.registry.aliases_by_model[MODEL]["champion"] = 2
    rollback = rollbacks.begin(world.services, request())
    world.registry.versions_known.discard(1)
    for _ in range(2):
        booked = rollback_records.record(world.services, rollback, at=datetime.now(UTC))
        assert booked.words == (
            "version 1 serves, and no version is champion: the registry no longer has version 1"
        )
        assert (world.registry.champion, booked.has_returned) == (None, False)
        assert world.registry.tags[2]["slipway.status"] == "rolled_back"
        assert rollback.id in world.registry.evidence


def test_leaving_a_version_that_mlflow_no_longer_has_is_booked_on_the_other(world: World) -> None:
    world.serve(1)
    released(world, 2, steps=3)
    rollback = rollbacks.begin(world.services, request())
    world.registry.versions_known.discard(2)
    booked = rollback_records.record(world.services, rollback, at=datetime.now(UTC))
    assert booked.words == "version 1 is champion; the registry no longer has version 2, which left"
    assert (world.registry.champion, rollback.id in world.registry.evidence) == (1, True)


def test_a_rollback_between_versions_that_mlflow_forgot_is_still_carried_out(world: World) -> None:
    world.serve(1)
    released(world, 2, steps=3)
    rollback = rollbacks.begin(world.services, request())
    del world.registry.aliases_by_model[MODEL]
    world.registry.versions_known.clear()
    booked = rollback_records.record(world.services, rollback, at=datetime.now(UTC))
    assert (booked.evidence, booked.has_returned) == (None, False)
    assert booked.words.startswith("version 1 serves, and no version is champion")
    assert "version 2, which left" in booked.words


def test_mlflow_that_is_away_is_no_version_that_is_gone(world: World) -> None:
    world.serve(1)
    released(world, 2, steps=3)
    rollback = rollbacks.begin(world.services, request())
    world.registry.gone = {"set_alias"}
    with pytest.raises(RegistryUnavailable):
        rollback_records.record(world.services, rollback, at=datetime.now(UTC))


def test_beginning_twice_is_beginning_once(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    asked = request()
    assert rollbacks.begin(world.services, asked) == rollbacks.begin(world.services, asked)


def test_an_old_rollback_cleared_later_leaves_newer_releases_alone(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    asked = request()
    rollback = rollbacks.begin(world.services, asked)
    rollbacks.acquire_lock(world.services, rollback)
    rollbacks.switch_traffic(world.services, rollback, rollbacks.deploy(world.services, rollback).id)
    rollbacks.finalize(world.services, rollback)
    newer = released(world, 3, steps=1)
    rollbacks.begin(world.services, asked)
    assert world.journal.load(newer).phase is Phase.PROGRESSING


def test_a_rollback_comes_before_the_release_that_waits(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    holder, waiting = world.release(3, second=30), world.release(4, second=40)
    acquire(world.services, holder)
    acquire(world.services, waiting)
    asked = request()
    begun(world, holder)
    rollback = rollbacks.begin(world.services, replace(asked, at=asked.at - timedelta(seconds=1)))
    assert not rollbacks.acquire_lock(world.services, rollback)
    assert acquire(world.services, waiting).words == f"superseded by {rollback.id}"
    world.lock.release(MODEL, holder.id)
    assert rollbacks.acquire_lock(world.services, rollback)
    rollbacks.finalize(world.services, rollback)
    assert acquire(world.services, world.release(4, second=50)).turn is QueueState.TAKEN


def test_after_a_rollback_only_the_pods_that_serve_stand(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    rollback = rollbacks.begin(world.services, request())
    rollbacks.acquire_lock(world.services, rollback)
    rollbacks.switch_traffic(world.services, rollback, rollbacks.deploy(world.services, rollback).id)
    rollbacks.finalize(world.services, rollback)
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [1]


def test_a_rollback_never_ends_the_pods_of_a_version_promoted_meanwhile(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    rollback = rollbacks.begin(world.services, request(1))
    promoted = released(world, 3, steps=3)
    assert world.journal.load(promoted).phase is Phase.WATCHING
    assert rollbacks.acquire_lock(world.services, rollback)
    deployment = rollbacks.deploy(world.services, rollback)
    route = world.router.read(MODEL)
    assert route.split == TrafficSplit(100, 0)
    assert route.stable
    assert (route.stable.version, route.stable.ref in world.platform.deployments(MODEL)) == (3, True)
    assert deployment.slot is route.stable.slot.other
    rollbacks.switch_traffic(world.services, rollback, deployment.id)
    assert rollbacks.serving_again(world.services, rollback)


def test_a_rollback_waits_for_no_release_that_has_no_traffic(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    building = world.release(3, second=30)
    acquire(world.services, building)
    require_lock(world.services, building)
    rollback = rollbacks.begin(world.services, request())
    assert rollbacks.acquire_lock(world.services, rollback)
    with pytest.raises(Permanent, match=f"lost its turn to {rollback.id}"):
        require_lock(world.services, building)
    rollbacks.finalize(world.services, rollback)
    # Approved an hour later, it does not undo the rollback either.
    with pytest.raises(Permanent, match="lost its turn to a rollback"):
        require_lock(world.services, building)


def test_a_rollback_waits_for_another_rollback(world: World) -> None:
    for version in (1, 2, 3):
        released(world, version, steps=4)
    first = rollbacks.begin(world.services, request(2, run_id="a"))
    second = rollbacks.begin(world.services, request(1, run_id="b"))
    assert rollbacks.acquire_lock(world.services, first)
    assert not rollbacks.acquire_lock(world.services, second)


def test_a_release_whose_run_is_cleared_takes_the_free_lock_again(world: World) -> None:
    release = world.release(1)
    acquire(world.services, release)
    release_lock(world.services, release)
    require_lock(world.services, release)
    holder = world.lock.read(MODEL).holder
    assert holder
    assert holder.release_id == release.id


def test_the_tasks_of_a_release_that_lost_its_turn_touch_no_traffic(world: World, bag: Any) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    for version in (1, 2):
        released(world, version, steps=4)
    building = world.release(3, second=30)
    acquire(world.services, building)
    rollback = rollbacks.begin(world.services, request())
    rollbacks.acquire_lock(world.services, rollback)
    before = world.router.read(MODEL)
    task = copy(bag.dags["release_fraud"].task_dict["rollout.roll_out"])
    for name, value in {"release": building.id, "bundle": world.bundle(3).id}.items():
        object.__setattr__(task, name, value)
    ti = type("Ti", (), {"task_id": "rollout.roll_out", "xcom_push": lambda *_: None})()
    with pytest.raises(AirflowFailException, match="lost its turn"):
        task.execute({"ti": ti})
    assert world.router.read(MODEL) == before


@pytest.mark.parametrize("by", ["controller", "rollback"])
def test_who_named_no_version_does_not_go_back_a_second_time(world: World, by: str) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    failing = released(world, 3, steps=4 if by == "rollback" else 1)
    late = request(run_id="alert__x")
    if by == "controller":
        world.rollouts.roll_back(failing, reason="it fails")
    else:
        # Asked for before, and carried out after.
        first = rollbacks.begin(world.services, replace(request(), at=late.at - timedelta(seconds=1)))
        rollbacks.acquire_lock(world.services, first)
        rollbacks.switch_traffic(world.services, first, rollbacks.deploy(world.services, first).id)
        rollbacks.finalize(world.services, first)
    with pytest.raises(AlreadyRolledBack, match="since this was asked for"):
        rollbacks.begin(world.services, late)
    assert rollbacks.begin(world.services, replace(late, version=1)).returns == 1


def test_a_rollback_asked_for_while_another_is_carried_out_is_refused_later(world: World) -> None:
    for version in (1, 2, 3):
        released(world, version, steps=4)
    first = rollbacks.begin(world.services, request())
    late = request(run_id="late")
    rollbacks.acquire_lock(world.services, first)
    rollbacks.switch_traffic(world.services, first, rollbacks.deploy(world.services, first).id)
    with pytest.raises(AlreadyRolledBack):
        rollbacks.begin(world.services, late)


@pytest.mark.parametrize(
    ("run_id", "ends"), [("alert__x", "AirflowSkipException"), ("r", "AlreadyRolledBack")]
)
def test_of_an_overtaken_rollback_only_a_person_hears_as_of_a_failure(
    world: World, monkeypatch: pytest.MonkeyPatch, run_id: str, ends: str
) -> None:
    from slipway_airflow import rollback_steps

    for version in (1, 2):
        released(world, version, steps=4)
    late = request(run_id=run_id)
    monkeypatch.setattr(rollback_steps, "_rollback_request", lambda _: late)
    world.rollouts.roll_back(released(world, 3, steps=1), reason="it fails")
    with pytest.raises(Exception, match="rolled back since") as ended:
        rollback_steps.ask_for_rollback(world.services, {})
    assert type(ended.value).__name__ == ends


def carried_out(world: World, asked: RollbackRequest) -> RollbackProgress:
    """By the controller, to its end."""
    progress = world.rollouts.roll_model_back(asked)
    world.rollouts.jobs.join(20)
    return world.rollouts.rollback(progress.id)


def test_the_controller_starts_a_version_again_and_gives_the_lock_back(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    progress = carried_out(world, request())
    assert (progress.phase, progress.leaves, progress.returns) == (RollbackPhase.RETURNED, 2, 1)
    route = world.router.read(MODEL)
    assert route.stable
    assert route.stable.version == 1
    assert [pods.id for pods in world.platform.deployments(MODEL)] == [route.stable.id]
    assert world.lock.read(MODEL) == LockState()


def test_asked_twice_by_one_run_it_goes_back_once(world: World) -> None:
    for version in (1, 2, 3):
        released(world, version, steps=4)
    asked = request()
    assert carried_out(world, asked) == carried_out(world, asked)
    assert world.router.read(MODEL).stable.version == 2  # type: ignore[union-attr]


def test_a_controller_that_was_killed_takes_its_rollbacks_up_again(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    rollback = rollbacks.begin(world.services, request())  # and then it was killed
    assert rollbacks.progress_of(world.services, rollback.id).phase is RollbackPhase.STARTING
    world.rollouts.jobs.resume()
    world.rollouts.jobs.join(20)
    assert rollbacks.progress_of(world.services, rollback.id).phase is RollbackPhase.RETURNED
    world.rollouts.jobs.resume()
    assert not world.rollouts.jobs._running, "nothing is begun twice"


def test_what_cannot_be_started_says_why_and_holds_up_nothing(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    world.platform.fail(world.bundle(1).id, "out of memory")
    progress = carried_out(world, request())
    assert (progress.phase, "out of memory" in progress.words) == (RollbackPhase.FAILED, True)
    assert world.router.read(MODEL).stable.version == 2  # type: ignore[union-attr]
    assert world.lock.read(MODEL) == LockState()


def test_two_rollbacks_of_a_model_come_one_after_the_other(world: World) -> None:
    for version in (1, 2, 3):
        released(world, version, steps=4)
    world.platform.hold_back(world.bundle(2).id)
    first = world.rollouts.roll_model_back(request(2, run_id="a"))
    second = world.rollouts.roll_model_back(request(1, run_id="b"))
    world.platform.release(world.bundle(2).id)
    world.rollouts.jobs.join(20)
    for progress in (first, second):
        assert world.rollouts.rollback(progress.id).phase is RollbackPhase.RETURNED
    assert len(world.platform.deployments(MODEL)) == 1


def test_what_nobody_recorded_is_found_until_it_is(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    progress = carried_out(world, request())
    soon, later = (datetime.now(UTC) + timedelta(seconds=after) for after in (1, 60))
    assert reconciliation.unrecorded_rollbacks(world.services, at=soon) == [], "its run is on its way"
    (found,) = reconciliation.unrecorded_rollbacks(world.services, at=later)
    assert found.id == progress.id
    rollbacks.note_recorded(world.services, found)
    assert reconciliation.unrecorded_rollbacks(world.services, at=later) == []


def test_rollbacks_of_before_the_controller_carried_them_out_are_left_alone(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    rollback = rollbacks.begin(world.services, request())
    row = world.rows.get(rows.RequestRow, rollback.id)
    saved = {name: value for name, value in row.document.items() if name != "by_controller"}
    # As `serving.ledger.home_files` takes it over.
    (row,) = world.rows.save(replace(row, status="done", document=saved))
    assert list(rollbacks.under_way(world.services)) == []
    world.rows.save(replace(row, document={**saved, "switched_at": "2026-11-22T08:00:00+00:00"}))
    assert list(rollbacks.unrecorded(world.services, before=datetime.now(UTC))) == []


def test_pods_that_leave_stay_a_while_for_the_gateway_and_for_requests_under_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving import composition
    from serving.control.controller import rollback_jobs
    from serving.control.controller.acts import Acts

    for version in (1, 2):
        released(world, version, steps=4)
    seen: list[tuple[int, list[int]]] = []

    def sleep(seconds: float) -> None:
        stable = world.router.read(MODEL).stable
        assert stable
        if seconds == 5:
            seen.append((stable.version, sorted(pods.version for pods in world.platform.deployments(MODEL))))

    monkeypatch.setattr(rollback_jobs.time, "sleep", sleep)
    acts = Acts(world._rollouts, lambda: world.services, composition.candidate_of, linger_seconds=5)
    acts.roll_model_back(request())
    acts.jobs.join(20)
    assert seen == [(1, [1, 2])]
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [1]


def test_a_rollback_that_was_killed_while_it_cleared_away_keeps_no_other_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.control.controller import rollback_jobs

    monkeypatch.setattr(rollback_jobs, "PATIENCE_SECONDS", 0.2)
    for version in (1, 2, 3):
        released(world, version, steps=4)
    first = killed_before_it_cleared_away(world, 2)
    progress = carried_out(world, request(1, run_id="b"))
    assert (progress.phase, progress.words) == (RollbackPhase.RETURNED, "version 1 has all traffic")
    assert first.id != progress.id
    assert world.lock.read(MODEL) == LockState()


def killed_before_it_cleared_away(world: World, version: int) -> RequestedRollback:
    rollback = rollbacks.begin(world.services, request(version))
    assert rollbacks.acquire_lock(world.services, rollback)
    rollbacks.switch_traffic(world.services, rollback, rollbacks.deploy(world.services, rollback).id)
    return rollback


def test_a_controller_clears_away_what_the_one_before_could_not(world: World) -> None:
    for version in (1, 2, 3):
        released(world, version, steps=4)
    killed_before_it_cleared_away(world, 2)
    assert len(world.platform.deployments(MODEL)) == 2
    world.rollouts.jobs.resume()
    world.rollouts.jobs.join(20)
    assert world.lock.read(MODEL) == LockState()
    assert [pods.version for pods in world.platform.deployments(MODEL)] == [2]


def test_a_controller_that_was_killed_before_it_returned_traffic_does_so_at_once(world: World) -> None:
    world.serve(1)
    watched = released(world, 2, steps=3)
    rollback = rollbacks.resolve(world.services, request())  # and then it was killed
    pods = world.platform.deployments(MODEL)
    world.rollouts.jobs.resume()
    world.rollouts.jobs.join(20)
    assert world.journal.load(watched).phase is Phase.ROLLED_BACK
    assert rollbacks.progress_of(world.services, rollback.id).phase is RollbackPhase.RETURNED
    assert world.platform.deployments(MODEL) == pods, "nothing had to be started again"


def test_one_that_is_none_keeps_no_other_rollback_from_going_on(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    rollback = rollbacks.begin(world.services, request())
    row = world.rows.get(rows.RequestRow, rollback.id)
    for number, content in enumerate(({}, {"wish": []}, {"wish": {}}, {"by_controller": True})):
        world.rows.create(replace(row, id=str(number), document=content, generation=0))
    world.rollouts.jobs.resume()
    world.rollouts.jobs.join(20)
    later = datetime.now(UTC) + timedelta(seconds=60)
    assert reconciliation.unrecorded_rollbacks(world.services, at=later) == [rollback]


def test_a_release_that_began_just_after_a_rollback_was_asked_for_does_not_outlast_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.control.controller import rollback_jobs

    monkeypatch.setattr(rollback_jobs, "PATIENCE_SECONDS", 0.2)
    for version in (1, 2):
        released(world, version, steps=4)
    release = world.release(3, second=30)
    acquire(world.services, release)
    asked = request()
    rollbacks.resolve(world.services, asked)
    begun(world, release)
    assert world.journal.load(release.id).started_at > asked.at
    progress = carried_out(world, asked)
    assert (progress.phase, progress.returns) == (RollbackPhase.RETURNED, 1)
    assert world.journal.load(release.id).phase is Phase.ROLLED_BACK


def test_the_same_asked_many_times_at_once_is_one_rollback(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    asked, look = request(1), rollbacks.serving_versions
    monkeypatch.setattr(rollbacks, "serving_versions", lambda *said: time.sleep(0.1) or look(*said))
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: world.rollouts.roll_model_back(asked).id, range(4)))
    world.rollouts.jobs.join(20)
    assert len(found) == len(rollbacks.all_of(world.services, MODEL)) == 1


def test_two_who_want_the_same_version_start_it_once(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    world.platform.hold_back(world.bundle(1).id)
    first = world.rollouts.roll_model_back(request(1, run_id="a"))
    second = world.rollouts.roll_model_back(request(1, run_id="b"))
    world.platform.release(world.bundle(1).id)
    world.rollouts.jobs.join(20)
    for progress in (first, second):
        assert world.rollouts.rollback(progress.id).phase is RollbackPhase.RETURNED
    assert world.router.read(MODEL).stable.slot is Slot.BLUE  # type: ignore[union-attr]


def test_a_run_that_is_cleared_long_after_its_rollback_ends_no_hold(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    asked = request()
    carried_out(world, asked)
    cooldowns.hold(world.services, MODEL, "it was wrong again", at=datetime.now(UTC))
    carried_out(world, asked)
    assert cooldowns.hold_on(world.services, MODEL)


@pytest.mark.parametrize(
    ("fails", "title"),
    [("", "fraud v2 was rolled back to v1"), ("out of memory", "fraud v2 could not be rolled back to v1")],
)
def test_people_are_told_what_became_of_a_rollback_and_not_before(
    world: World, monkeypatch: pytest.MonkeyPatch, fails: str, title: str
) -> None:
    from slipway_airflow import rollback_steps

    for version in (1, 2):
        released(world, version, steps=4)
    receiver = Notify(to="webhook", url_env="URL", secret_env="SECRET")
    spec = world.spec.model_copy(update={"notify": (receiver,)})
    monkeypatch.setattr(Releases, "spec_of", lambda *_: spec)
    asked = request(run_id="alert__x")
    monkeypatch.setattr(rollback_steps, "_rollback_request", lambda _: asked)
    world.platform.hold_back(world.bundle(1).id)
    outbox = notifications.outbox_of(world.services)

    assert rollback_steps.ask_for_rollback(world.services, {}).phase is RollbackPhase.STARTING
    assert outbox.due(at=datetime.now(UTC)) == []
    if fails:
        world.platform.fail(world.bundle(1).id, fails)
    else:
        world.platform.release(world.bundle(1).id)
    world.rollouts.jobs.join(20)
    for _ in range(2):
        rollback_steps.ask_for_rollback(world.services, {})
    (letter,) = outbox.due(at=datetime.now(UTC))
    assert (letter.message.title, fails in letter.message.text) == (title, True)


def test_a_release_that_cannot_be_read_keeps_no_rollback(world: World) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    row = world.rows.find(rows.ReleaseRecord, model=MODEL)[0]
    torn = replace(row, id=f"{MODEL}-v1-20261101T000000Z", document={}, generation=0)
    world.rows.create(torn)
    progress = carried_out(world, request())
    assert (progress.phase, progress.words) == (RollbackPhase.RETURNED, "version 1 has all traffic")


def test_the_spec_of_a_model_is_that_of_its_last_release_that_can_be_read(world: World) -> None:
    assert world.releases.spec_of(MODEL) is None
    for version, second in ((2, 1), (1, 9), (3, 5)):
        described = world.spec.model_copy(update={"description": f"of {version}"})
        world.releases.open(world.release(version, second=second).request, described, lambda _: 0)
    last = world.releases.spec_of(MODEL)
    assert last
    assert last.description == "of 1"
    row = world.rows.get(rows.ReleaseRecord, f"{MODEL}-v1-20261121T200009Z")
    world.rows.save(replace(row, document={}))
    last = world.releases.spec_of(MODEL)
    assert last
    assert last.description == "of 3"


@pytest.fixture
def outage(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """In which the ledger cannot be reached."""

    def away(*_: Any, **__: Any) -> Any:
        raise Unreachable("the ledger is away", remedy="wait", delay_seconds=0)

    @contextmanager
    def gone() -> Iterator[None]:
        with monkeypatch.context() as patched:
            for name in ("save", "create", "find", "get", "observe"):
                patched.setattr(world.rows, name, away)
            yield

    return gone


def after_outage(world: World) -> None:
    """What the controller does once in a while, and with each look."""
    world.router.settle()
    world.rollouts.jobs.resume()
    world.rollouts.jobs.join(20)


def test_a_rollback_asked_for_while_the_ledger_is_away_moves_traffic_and_is_written_down_later(
    world: World, outage: Any
) -> None:
    world.serve(1)
    release = released(world, 2, steps=1)
    asked = request()
    with outage():
        told = world.rollouts.roll_model_back(asked)
        assert (told.phase, world.router.read(MODEL).split) == (RollbackPhase.STARTING, ALL_STABLE)
        assert "version 1 has all traffic" in told.words
        assert world.rollouts.rollback(told.id) == told
    after_outage(world)
    assert world.journal.load(release).phase is Phase.ROLLED_BACK
    (known,) = rollbacks.all_of(world.services, MODEL)
    assert (known.rollback.request, known.rollback.leaves, known.rollback.returns) == (asked, 2, 1)
    assert known.switched_at
    assert world.rollouts.rollback(told.id).phase is RollbackPhase.RETURNED
    assert world.rollouts.roll_model_back(asked).id == told.id == known.rollback.id


def test_a_rollback_to_an_older_version_takes_the_candidates_traffic_first_and_goes_there_later(
    world: World, outage: Any
) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    released(world, 3, steps=1)
    with outage():
        told = world.rollouts.roll_model_back(request(1))
    assert (told.phase, told.leaves, told.returns) == (RollbackPhase.STARTING, 3, 1)
    route = world.router.read(MODEL)
    assert (route.split, route.stable and route.stable.version) == (ALL_STABLE, 2)
    after_outage(world)
    route = world.router.read(MODEL)
    assert (route.split, route.stable and route.stable.version) == (ALL_STABLE, 1)
    (known,) = rollbacks.all_of(world.services, MODEL)
    assert (known.rollback.leaves, known.rollback.returns) == (3, 1)


def test_a_models_only_version_keeps_its_traffic_while_the_ledger_is_away(world: World, outage: Any) -> None:
    released(world, 1, steps=1)
    before = world.router.read(MODEL)
    for asked in (request(), request(1)):
        with outage(), pytest.raises(Unreachable):
            world.rollouts.roll_model_back(asked)
    assert world.router.read(MODEL) == before
    after_outage(world)
    assert world.router.read(MODEL) == before, "there is nothing to go back to"
    assert rollbacks.all_of(world.services, MODEL) == []


def test_a_rollback_that_was_written_down_just_before_the_ledger_went_away_is_carried_out(
    world: World, outage: Any
) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    rollback = rollbacks.resolve(world.services, request())
    with outage(), pytest.raises(Unreachable):
        world.rollouts.jobs.carry_out(rollback)
    after_outage(world)
    assert rollbacks.serving_again(world.services, rollback)
    assert rollbacks.progress_of(world.services, rollback.id).phase is RollbackPhase.RETURNED

"""A store that takes nothing more: who asks is told which and why, and traffic goes back all the same."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest
from slipway_airflow import final_steps, rollback_steps

from model_store.types import ModelRef
from serving.control import audit, audit_entries, freeze_enforcement
from serving.control.wiring import now
from serving.ledger.opening import open_ledger
from serving.ledger.rows import AuditRow
from serving.types import ALL_STABLE
from tests.airflow.desk import (
    everything,
    forget_runs,
    run_states,
    under_way,
    waiting_for_approval,
)
from tests.airflow.people import ApiServer, api_server
from tests.airflow.test_rollbacks import released, request
from tests.airflow.test_runs import Runs
from tests.airflow.world import MODEL, World
from tests.mounts import SmallDisk, small_disk

API = "/slipway/api/v1"
pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]
ROLLBACK = f"/models/{MODEL}/rollback"
FULL = "nothing can be written to {}: its disk is full"
READ_ONLY = "nothing can be written to {}: it is mounted read-only"


@pytest.fixture(scope="module")
def server(in_database: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("people"), {"ada": "admin", "rita": "user"}) as server:
        yield server


@pytest.fixture(autouse=True)
def _fresh(in_database: None) -> None:
    forget_runs()


@pytest.fixture
def post(server: ApiServer) -> Any:
    """`post(path, **body)`, by ada: status and answer. A fault of ours is an answer too, as for a client."""

    def post(path: str, **body: Any) -> tuple[int, Any]:
        client = server.of("ada")
        client._transport.raise_server_exceptions = False  # type: ignore[attr-defined]
        answer = client.post(API + path, json={"reason": "because", **body})
        known = answer.headers["content-type"].endswith("json")
        return answer.status_code, answer.json() if known else answer.text

    return post


@pytest.fixture
def disk(world: World) -> Iterator[SmallDisk]:
    """A disk of its own under the ledger alone."""
    with small_disk(world.services.home.late, kilobytes=2048) as disk:
        ledger = open_ledger(f"sqlite:///{disk.root / 'ledger.db'}")
        world.rows = ledger
        # The controller has long had its connections when a disk is full.
        assert ledger.find(AuditRow) == []
        yield disk
        ledger.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "RETRY_SECONDS", 0.01)


def written(world: World) -> list[str]:
    """The actions that are on the disk."""
    return [entry.action for entry in world.rows.find(AuditRow)]


def besides_audit(world: World) -> dict[str, str]:
    return {name: what for name, what in everything(world).items() if not name.startswith("late/")}


def told(said: dict[str, Any], disk: SmallDisk) -> str:
    """The words, without which of the disk's files it was."""
    return str(said["detail"]).replace(str(disk.root / "ledger.db"), "{}").replace(str(disk.root), "{}")


def until_written(world: World, *actions: str) -> None:
    from tests.unit.serving.control.test_audit import until

    until(lambda: written(world) == list(actions))
    assert [entry.action for entry in audit_entries.trail_of(world.services).entries()] == list(
        reversed(actions)
    )


def asked(world: World, act: str) -> tuple[str, dict[str, Any]]:
    """Where to send it, and what. Whatever it needs is there."""
    if act == "release":
        return "/releases", {"model": MODEL, "version": "2"}
    if act == "freeze":
        return "/freezes", {"hours": 1}
    if act == "lift":
        freezes = freeze_enforcement.freezes_of(world.services)
        return f"/freezes/{freezes.add(None, by='ada', reason='x', until=None, at=now()).id}/lift", {}
    if act in ("approve", "reject"):
        return f"/releases/{waiting_for_approval(world).id}/{act}", {}
    release = under_way(world)
    if act == "resume":
        from serving.control.rollout.control import ControlRequest

        freeze_enforcement.control_of(world.services).pause(release.id, ControlRequest("ada", "x"))
    return f"/releases/{release.id}/{act}", {}


ACTS = ("release", "freeze", "lift", "approve", "reject", "pause", "resume", "skip", "override")


@pytest.mark.parametrize("act", ACTS)
def test_an_act_whose_line_the_full_disk_does_not_take_is_refused_in_words_and_leaves_nothing(
    world: World, disk: SmallDisk, post: Any, act: str
) -> None:
    path, body = asked(world, act)
    disk.fill()
    before = besides_audit(world)
    status, said = post(path, **body)
    assert (status, told(said, disk)) == (507, FULL)
    assert said["remedy"] == "make room there (df -h), and ask again"
    assert (besides_audit(world), written(world)) == (before, [])
    disk.make_room()
    assert post(path, **body)[0] < 300


def test_a_release_whose_line_fails_at_the_last_moment_is_none(
    world: World, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path, body = asked(world, "release")
    with monkeypatch.context() as failing:
        failing.setattr(audit.AuditTrail, "append", full)
        assert post(path, **body)[0] == 507
    assert (world.releases.of_model(MODEL), run_states(f"release_{MODEL}")) == ([], [])
    assert world.services.attempts.of(ModelRef(MODEL, 2)) is None


@pytest.mark.parametrize("act", ["abort", "rollback"])
def test_traffic_goes_back_at_once_and_its_line_follows_when_there_is_room(
    world: World, disk: SmallDisk, post: Any, act: str, caplog: pytest.LogCaptureFixture
) -> None:
    release = under_way(world)
    disk.fill()
    assert post(f"/releases/{release.id}/abort" if act == "abort" else ROLLBACK)[0] < 300
    assert world.router.read(MODEL).split == ALL_STABLE
    assert f'"action":"{act}"' in caplog.text
    assert written(world) == []
    disk.make_room()
    until_written(world, act)


def test_a_rollback_to_a_version_that_stands_no_more_waits_for_room_and_says_so(
    world: World, disk: SmallDisk, post: Any, bag: Any
) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    world.platform.hold_back(world.bundle(1).id)
    disk.fill()
    status, said = post(ROLLBACK)
    assert (status, said["title"], run_states("model_rollback")) == (507, "Insufficient Storage", [])
    assert world.router.read(MODEL).stable.version == 2  # type: ignore[union-attr]
    disk.make_room()
    status, said = post(ROLLBACK)
    assert (status, said["at_once"], run_states("model_rollback")) == (202, False, ["queued"])
    status, said = post(ROLLBACK)
    assert (status, said["detail"].startswith("ada asked for a rollback of fraud at ")) == (409, True)
    world.platform.release(world.bundle(1).id)
    world.rollouts.jobs.join(20)
    assert world.router.read(MODEL).stable.version == 1  # type: ignore[union-attr]
    until_written(world, "rollback", "rollback")


def test_who_went_back_a_moment_ago_is_known_although_no_line_says_so(
    world: World, disk: SmallDisk, post: Any
) -> None:
    released(world, 1, steps=4)
    released(world, 2, steps=4)
    world.registry.versions_known.add(3)
    released(world, 3, steps=1)
    disk.fill()
    assert post(ROLLBACK)[0] == 202
    status, said = post(ROLLBACK)
    assert (status, "ada rolled fraud back at" in said["detail"]) == (409, True)


def test_the_run_of_a_rollback_brings_users_back_before_its_line_is_written(
    world: World, disk: SmallDisk, bag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(world, 1, steps=4)
    released(world, 2, steps=1)
    disk.fill()
    monkeypatch.setattr(rollback_steps, "_rollback_request", lambda _: request(run_id="manual__1"))
    told = rollback_steps.ask_for_rollback(world.services, {})  # type: ignore[typeddict-item]
    assert (told.leaves, told.returns, world.router.read(MODEL).split) == (2, 1, ALL_STABLE)
    assert written(world) == []
    disk.make_room()
    world.rollouts.jobs.resume()
    world.rollouts.jobs.join(10)
    # Only Airflow can take the links and events that it writes besides.
    with contextlib.suppress(KeyError):
        final_steps.record_rollback({}, told.id)  # type: ignore[typeddict-item]
    assert written(world) == ["rollback"]


def test_a_task_says_which_disk_is_full(world: World, disk: SmallDisk, bag: Any) -> None:
    disk.fill()
    run = Runs(bag).release("2", reason="better")
    said = [value for task, key, value in run.xcoms() if key == "failure"]
    assert any("its disk is full" in str(words) for words in said)

"""Alerts at the door: which of them take a version back, and that none does it twice."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from slipway_airflow import dag_runs
from slipway_airflow.page import airflow_host

from model_store.release_spec.notify import Notify
from serving.control import alerts, cooldowns, notifications, rollbacks
from serving.control.alerts import AlertReply
from serving.control.releases import Releases
from serving.control.rollbacks import RollbackRequest
from serving.control.rollout.plan import Phase
from serving.home import Home
from serving.inbound.secrets import rotate, secrets_of
from serving.monitoring.incidents import MOST_BYTES, Incident, alert_token
from serving.web import webhooks
from serving.web.problems import answer_with_problems
from tests.airflow.test_rollbacks import released
from tests.airflow.world import MODEL, World

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]
COOLDOWN = timedelta(minutes=10)


def now() -> datetime:
    return datetime.now(UTC)


def incident(*, since: datetime | None = None, key: str = "k1", **changed: Any) -> Incident:
    said = {"model": MODEL, "alert": "ModelErrorRateHigh", "summary": "2% of attempts fail", **changed}
    return Incident(key=key, since=since or now(), **said)


def reply(world: World, one: Incident, *, at: datetime | None = None) -> AlertReply:
    decision = alerts.decide(world.services, one, cooldown=COOLDOWN, at=at or now())
    assert decision.words
    return decision.reply


@pytest.fixture
def two_versions(world: World) -> World:
    """v2 took over from v1, and its watch is over: v1's pods are gone, its bundle is in the store."""
    for version in (1, 2):
        released(world, version, steps=4)
        world.rollouts.finish_watch(world.journal.releases(MODEL)[-1].release_id)
    assert [state.phase for state in world.journal.releases(MODEL)] == [Phase.DONE, Phase.DONE]
    return world


def test_an_alert_after_the_watch_takes_the_version_back(two_versions: World) -> None:
    assert reply(two_versions, incident()) is AlertReply.ROLL_BACK
    assert reply(two_versions, incident(version=2)) is AlertReply.ROLL_BACK


def test_an_alert_during_a_canary_takes_the_candidate_back(world: World) -> None:
    world.serve(1)
    released(world, 2, steps=1)
    assert reply(world, incident()) is AlertReply.ROLL_BACK


def test_an_alert_without_a_release_behind_it_is_only_told(world: World) -> None:
    assert reply(world, incident()) is AlertReply.TELL, "nothing serves"
    world.serve(1)
    assert reply(world, incident()) is AlertReply.TELL, "served without a release"


def test_the_first_version_of_a_model_has_nothing_to_go_back_to(world: World) -> None:
    released(world, 1, steps=4)
    assert reply(world, incident()) is AlertReply.TELL


def test_an_alert_about_a_version_that_is_gone_is_old_news(two_versions: World) -> None:
    assert reply(two_versions, incident(version=1)) is AlertReply.NOTHING


def test_an_alert_that_began_before_the_release_is_not_its_fault(two_versions: World) -> None:
    started = two_versions.journal.releases(MODEL)[-1].started_at
    assert reply(two_versions, incident(since=started - timedelta(minutes=1))) is AlertReply.TELL


def test_an_alert_from_the_future_changes_nothing(two_versions: World) -> None:
    assert reply(two_versions, incident(since=now() + timedelta(minutes=6))) is AlertReply.TELL
    assert reply(two_versions, incident(since=now() + timedelta(minutes=4))) is AlertReply.ROLL_BACK


def test_a_bundle_that_is_gone_is_told_to_people_instead_of_failing_halfway(two_versions: World) -> None:
    import shutil

    route = two_versions.router.read(MODEL)
    assert route.stable is not None
    gone = rollbacks.bundle_of(two_versions.services, MODEL, 1)
    shutil.rmtree(two_versions.store.bundle_path(gone))
    assert reply(two_versions, incident()) is AlertReply.TELL


def rolled_back(world: World, *, run_id: str = "alert__k1") -> datetime:
    """v2 goes back to v1, as model_rollback does it. Returns when it was asked for."""
    at = now()
    request = RollbackRequest(MODEL, None, "alert", "k1", "alertmanager", run_id, at)
    rollback = rollbacks.begin(world.services, request)
    assert rollbacks.acquire_lock(world.services, rollback)
    pods = rollbacks.deploy(world.services, rollback)
    rollbacks.switch_traffic(world.services, rollback, pods.id)
    rollbacks.finalize(world.services, rollback)
    return at


def test_after_the_watch_the_bundle_before_is_started_again(two_versions: World) -> None:
    rolled_back(two_versions)
    route = two_versions.router.read(MODEL)
    assert route.stable is not None
    assert route.stable.version == 1


def test_the_echo_of_a_rollback_is_not_answered_again(two_versions: World) -> None:
    at = rolled_back(two_versions)
    released_again = incident(key="k2", since=at + timedelta(seconds=20))
    assert reply(two_versions, released_again, at=at + timedelta(seconds=30)) is AlertReply.NOTHING
    assert reply(two_versions, incident(since=at), at=at + timedelta(minutes=2)) is AlertReply.NOTHING


def test_a_second_failure_soon_after_a_rollback_goes_to_people(world: World) -> None:
    for version in (1, 2, 3):  # v1 could be gone back to; nobody should by itself
        released(world, version, steps=4)
        world.rollouts.finish_watch(world.journal.releases(MODEL)[-1].release_id)
    at = rolled_back(world)
    later = at + timedelta(minutes=3)
    assert reply(world, incident(key="k2", since=later), at=later) is AlertReply.HOLD


def test_an_alert_that_a_rollback_did_not_end_goes_to_people(two_versions: World) -> None:
    at = rolled_back(two_versions)
    assert reply(two_versions, incident(since=at), at=at + timedelta(minutes=6)) is AlertReply.HOLD


def test_a_model_that_is_held_is_only_told_of(two_versions: World) -> None:
    cooldowns.hold(two_versions.services, MODEL, "second failure", at=now())
    assert reply(two_versions, incident()) is AlertReply.TELL


# The door.


class Alertmanager:
    def __init__(self, client: TestClient) -> None:
        self._client = client

    def send(self, *sent: dict[str, Any], token: str | None = None, body: bytes | None = None) -> Any:
        said = {"version": "4", "status": "firing", "receiver": "airflow", "alerts": list(sent)}
        token = alert_token(secrets_of(Home.locate()).current) if token is None else token
        return self._client.post(
            "/alerts",
            content=body or json.dumps(said).encode(),
            headers={"Authorization": f"Bearer {token}"},
        )


def alert(*, since: datetime | None = None, **labels: str) -> dict[str, Any]:
    said = {"alertname": "ModelErrorRateHigh", "model": MODEL, "action": "rollback", **labels}
    annotations = {"summary": "2% of attempts fail"}
    return {
        "status": "firing",
        "labels": said,
        "annotations": annotations,
        "startsAt": (since or now()).isoformat(),
    }


@pytest.fixture
def manager(bag: DagBag, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Alertmanager:
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import sync_bag_to_db

    DagBundlesManager().sync_bundles_to_db()  # type: ignore[no-untyped-call]
    sync_bag_to_db(bag, "dags-folder", None)
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    app = FastAPI()
    app.state.host = airflow_host()
    answer_with_problems(app)
    app.include_router(webhooks.router)
    return Alertmanager(TestClient(app))


@pytest.fixture
def started_rollbacks(manager: Alertmanager) -> Iterator[Any]:
    """Calling it returns the runs of model_rollback that there are."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import delete, select

    of_alerts = (DagRun.dag_id == "model_rollback", DagRun.run_id.startswith("alert__"))

    def found() -> list[dict[str, Any]]:
        with create_session() as session:
            return [run.conf or {} for run in session.scalars(select(DagRun).where(*of_alerts))]

    yield found
    with create_session() as session:
        session.execute(delete(DagRun).where(*of_alerts))


def test_an_incident_starts_one_rollback_however_often_it_is_delivered(
    two_versions: World, manager: Alertmanager, started_rollbacks: Any
) -> None:
    one = alert()
    for _ in range(3):
        assert manager.send(one, one).status_code == 200
    (conf,) = started_rollbacks()
    assert conf["model"] == MODEL
    assert "2% of attempts fail" in conf["reason"]
    assert len(conf["incident"]) == 24


def test_a_lost_answer_starts_no_second_rollback(
    two_versions: World, manager: Alertmanager, started_rollbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow is killed after the run is in its database, before that is written down here."""
    one = alert()
    with monkeypatch.context() as patch:
        patch.setattr(
            cooldowns, "note_rollback_requested", lambda *a, **k: (_ for _ in ()).throw(OSError("killed"))
        )
        with pytest.raises(OSError, match="killed"):
            manager.send(one)
    assert manager.send(one).status_code == 200
    assert len(started_rollbacks()) == 1


def test_two_alerts_of_one_failure_go_back_one_version(
    two_versions: World, manager: Alertmanager, started_rollbacks: Any
) -> None:
    answers = manager.send(alert(), alert(alertname="ModelErrorsReachUsers")).json()["answers"]
    assert [words.split(": ")[2] for words in answers] == ["roll_back", "nothing"]
    assert manager.send(alert(alertname="ModelSlow")).json()["answers"][0].split(": ")[2] == "nothing"
    assert len(started_rollbacks()) == 1


def test_the_run_that_an_alert_starts_is_one_that_the_dag_takes(
    two_versions: World, manager: Alertmanager, started_rollbacks: Any, bag: DagBag
) -> None:
    manager.send(alert())
    (conf,) = started_rollbacks()
    params = copy.deepcopy(bag.dags["model_rollback"].params)
    params.update(conf)
    params.validate()
    with pytest.raises(ValueError, match="model"):
        copy.deepcopy(bag.dags["model_rollback"].params).validate()


def test_without_the_token_nothing_happens(
    two_versions: World, manager: Alertmanager, started_rollbacks: Any
) -> None:
    for token in ("", "guessed", secrets_of(Home.locate()).current):
        assert manager.send(alert(), token=token).status_code == 401
    assert started_rollbacks() == []


def test_the_token_of_before_a_rotation_is_valid_for_a_while(
    two_versions: World, manager: Alertmanager, started_rollbacks: Any
) -> None:
    old = alert_token(secrets_of(Home.locate()).current)
    rotate(Home.locate(), now=now())
    assert [manager.send(alert(), token=one).status_code for one in (old, None)] == [200, 200]
    rotate(Home.locate(), now=now())
    assert manager.send(alert(), token=old).status_code == 401


def test_unknown_models_and_crafted_labels_are_left_out_and_logged(
    two_versions: World, manager: Alertmanager, started_rollbacks: Any, caplog: pytest.LogCaptureFixture
) -> None:
    crafted = ["nobody", "../fraud", "fraud' OR 1=1 --", "<b>fraud</b>", "", "a" * 300]
    answers = manager.send(*[alert(model=name) for name in crafted]).json()["answers"]
    assert len(answers) == len(crafted)
    assert all(words.startswith("left out") for words in answers)
    assert started_rollbacks() == []
    assert "unknown model: 'nobody'" in caplog.text


def test_what_is_too_large_or_no_delivery_is_refused(
    two_versions: World, manager: Alertmanager, started_rollbacks: Any
) -> None:
    assert manager.send(body=b"x" * (MOST_BYTES + 1)).status_code == 413
    assert manager.send(body=b"{}").status_code == 422
    assert started_rollbacks() == []


def test_an_old_delivery_that_is_replayed_later_starts_nothing(
    two_versions: World, manager: Alertmanager, started_rollbacks: Any
) -> None:
    captured = alert(since=two_versions.journal.releases(MODEL)[-1].started_at - timedelta(days=3))
    assert "tell" in manager.send(captured).json()["answers"][0]
    assert started_rollbacks() == []


def test_an_alert_that_nothing_can_be_done_about_is_told_once(
    world: World, manager: Alertmanager, started_rollbacks: Any
) -> None:
    release = world.release(1)
    told = Notify(to="webhook", url_env="URL", secret_env="SECRET")
    with pytest.MonkeyPatch.context() as patch:
        spec = release.spec.model_copy(update={"notify": (told,)})
        patch.setattr(Releases, "spec_of", lambda releases, model: spec)
        one = alert()
        for _ in range(3):
            manager.send(one)
    (letter,) = notifications.outbox_of(world.services).due(at=now())
    assert (letter.message.occasion, letter.message.model) == ("alert", MODEL)
    assert started_rollbacks() == []


def test_a_second_failure_holds_the_model_until_a_person_acts(
    two_versions: World, manager: Alertmanager, started_rollbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = rolled_back(two_versions)
    monkeypatch.setattr(webhooks, "now", lambda: at + timedelta(minutes=4))
    manager.send(alert(since=at + timedelta(minutes=3)))
    held = cooldowns.hold_on(two_versions.services, MODEL)
    assert held is not None
    assert started_rollbacks() == []
    assert dag_runs.released_models() >= {MODEL}
    cooldowns.end_hold(two_versions.services, MODEL)
    assert cooldowns.hold_on(two_versions.services, MODEL) is None

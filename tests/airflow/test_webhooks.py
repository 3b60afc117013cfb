"""Deliveries at the door: forged, repeated, late, too many; and what Airflow is told of the others."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from slipway_airflow import dag_runs
from slipway_airflow.page import airflow_host

from model_store.types import ModelRef
from serving import composition
from serving.control import cooldowns
from serving.control.rows_client import RowsClient
from serving.home import Home
from serving.inbound.deliveries import MOST_BYTES, sign
from serving.inbound.pace import Pace
from serving.inbound.secrets import rotate, secrets_of
from serving.web import events, webhooks
from serving.web.events import AssetEventQueue
from serving.web.problems import answer_with_problems
from tests.airflow.world import MODEL, World
from tests.ledgers import ledger_of
from tests.unit.serving.gateway_process import free_ports

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]
PATH = "/webhooks/mlflow"


def event(kind: str = "model_version_alias.created", model: str = MODEL, **data: str) -> bytes:
    entity, _, action = kind.partition(".")
    named = {"name": model, "version": "1", "alias": "candidate", **data}
    said = {"entity": entity, "action": action, "timestamp": datetime.now(UTC).isoformat(), "data": named}
    return json.dumps(said).encode()


class Mlflow:
    """Sends as MLflow does. `off`: how far its clock is ahead."""

    def __init__(self, client: TestClient, home: Home) -> None:
        self._client, self._home = client, home

    def send(
        self, body: bytes, *, off: timedelta = timedelta(), delivery: str | None = None, secret: str = ""
    ) -> Any:
        return self._client.post(PATH, content=body, headers=self.headers(body, off, delivery, secret))

    def quiet(self) -> bool:
        """Whether everything asked for was looked at."""
        queue: AssetEventQueue = app_of(self._client).state.asset_events
        return queue.wait(seconds=10)

    def headers(
        self, body: bytes, off: timedelta = timedelta(), delivery: str | None = None, secret: str = ""
    ) -> dict[str, str]:
        delivery, seconds = delivery or str(uuid4()), int((datetime.now(UTC) + off).timestamp())
        return {
            "X-MLflow-Delivery-Id": delivery,
            "X-MLflow-Timestamp": str(seconds),
            "X-MLflow-Signature": sign(secret or secrets_of(self._home).current, delivery, seconds, body),
        }


@pytest.fixture
def looked(client: TestClient) -> Iterator[list[tuple[str, str]]]:
    """The models that were looked at, by which kind of event."""
    seen: list[tuple[str, str]] = []
    looks = AssetEventQueue(lambda model, kind: f"{seen.append((model, kind))}")
    app_of(client).state.asset_events = looks
    yield seen
    assert looks.wait(seconds=5)


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.state.host = airflow_host()
    answer_with_problems(app)
    app.include_router(webhooks.router)
    return TestClient(app)


def app_of(client: TestClient) -> FastAPI:
    return cast(FastAPI, client.app)


@pytest.fixture
def mlflow(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mlflow:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.setattr(webhooks, "MLFLOW_PACE", Pace(5000, 100))
    monkeypatch.setattr(composition, "rows_of", ledger_of)
    return Mlflow(client, Home.locate())


Seen = list[tuple[str, str]]
announce = partial(events.announce_if_new, dag_runs)


def test_a_signed_delivery_is_taken_and_the_model_is_looked_at(mlflow: Mlflow, looked: Seen) -> None:
    answer = mlflow.send(event())
    assert (answer.status_code, answer.json()) == (202, {"answer": "accepted"})
    assert mlflow.quiet()
    assert looked == [(MODEL, "model_version_alias.created")]


def test_an_unsigned_or_forged_delivery_is_refused_and_told_nothing(
    mlflow: Mlflow, client: TestClient, looked: Seen
) -> None:
    answers = [
        client.post(PATH, content=event()),
        mlflow.send(event(), secret="guessed"),
        client.post(PATH, content=event(version="2"), headers=mlflow.headers(event())),
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert mlflow.quiet()
    assert looked == []


@pytest.mark.parametrize("minutes", [-6, 6, 60 * 24])
def test_a_stale_delivery_and_one_from_the_future_are_refused(
    mlflow: Mlflow, looked: Seen, minutes: int
) -> None:
    assert mlflow.send(event(), off=timedelta(minutes=minutes)).status_code == 401
    assert mlflow.quiet()
    assert looked == []


@pytest.mark.parametrize("minutes", [-4, 4])
def test_a_clock_that_is_minutes_off_loses_no_delivery(mlflow: Mlflow, looked: Seen, minutes: int) -> None:
    assert mlflow.send(event(), off=timedelta(minutes=minutes)).status_code == 202


def test_a_replayed_delivery_does_nothing_also_after_a_restart(
    mlflow: Mlflow, client: TestClient, looked: Seen
) -> None:
    body = event()
    headers = mlflow.headers(body)
    client.post(PATH, content=body, headers=headers)
    assert mlflow.quiet()
    again = client.post(PATH, content=body, headers=headers)  # nothing is kept in memory between the two
    assert (again.status_code, again.json()) == (202, {"answer": "repeated"})
    assert mlflow.quiet()
    assert len(looked) == 1


def test_while_the_controller_is_away_mlflow_is_told_to_come_again_and_then_it_counts(
    mlflow: Mlflow, client: TestClient, looked: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = event()
    headers = mlflow.headers(body)
    with monkeypatch.context() as away:
        away.setenv("SLIPWAY_PORT_CONTROLLER", str(free_ports(1)[0]))
        away.setattr(composition, "rows_of", RowsClient)
        answer = client.post(PATH, content=body, headers=headers)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert "the controller does not answer" in answer.json()["detail"]
    assert client.post(PATH, content=body, headers=headers).json() == {"answer": "accepted"}
    assert mlflow.quiet()
    assert len(looked) == 1


def test_what_is_too_large_is_not_even_read(mlflow: Mlflow, client: TestClient, looked: Seen) -> None:
    large = b"x" * (MOST_BYTES + 1)
    assert mlflow.send(large).status_code == 413

    def pieces() -> Iterator[bytes]:
        yield from [b"x" * 65536] * (MOST_BYTES // 65536 + 2)

    assert client.post(PATH, content=pieces(), headers=mlflow.headers(large)).status_code == 413


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'{"entity": "prompt"}', event(model="../fraud")])
def test_a_malformed_delivery_is_refused_although_it_is_signed(
    mlflow: Mlflow, looked: Seen, body: bytes
) -> None:
    assert mlflow.send(body).status_code == 422
    assert mlflow.quiet()
    assert looked == []


def test_too_many_deliveries_are_put_off(
    mlflow: Mlflow, looked: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MLFLOW_PACE", Pace(burst=2, per_second=0.001))
    answers = [mlflow.send(event()) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert answers[-1].headers["retry-after"] == "5"


def test_forged_deliveries_use_up_nobody_elses_pace(
    mlflow: Mlflow, looked: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MLFLOW_PACE", Pace(burst=1, per_second=0.001))
    for _ in range(20):
        mlflow.send(event(), secret="guessed")
    assert mlflow.send(event()).status_code == 202


def test_both_secrets_of_a_rotation_are_valid(mlflow: Mlflow, looked: Seen, tmp_path: Path) -> None:
    old = secrets_of(Home.locate()).current
    rotate(Home.locate(), now=datetime.now(UTC))
    assert [mlflow.send(event(), secret=one).status_code for one in (old, "")] == [202, 202]
    rotate(Home.locate(), now=datetime.now(UTC))
    assert mlflow.send(event(), secret=old).status_code == 401


def test_what_slipway_wrote_itself_is_no_news(mlflow: Mlflow, looked: Seen) -> None:
    tag = event("model_version_tag.set", key="slipway.status", value="promoted")
    assert mlflow.send(tag).json() == {"answer": "ignored"}
    assert mlflow.quiet()
    assert looked == []


# What Airflow is told.


@pytest.fixture
def airflow(bag: DagBag, world: World) -> Callable[[], list[dict[str, Any]]]:
    """The DAGs are in Airflow's database; calling this returns the events that came since, oldest first."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import sync_bag_to_db
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import func, select

    DagBundlesManager().sync_bundles_to_db()  # type: ignore[no-untyped-call]
    sync_bag_to_db(bag, "dags-folder", None)
    with create_session() as session:
        before = session.scalar(select(func.max(AssetEvent.id))) or 0

    def since() -> list[dict[str, Any]]:
        with create_session() as session:
            found = session.scalars(select(AssetEvent).where(AssetEvent.id > before).order_by(AssetEvent.id))
            return [one.extra for one in found]

    return since


Told = Callable[[], list[dict[str, Any]]]


def queued() -> list[str]:
    """The DAGs that the scheduler will start because of an event."""
    from airflow.models.asset import AssetDagRunQueue
    from airflow.utils.session import create_session
    from sqlalchemy import delete, select

    with create_session() as session:
        found = list(session.scalars(select(AssetDagRunQueue.target_dag_id)))
        session.execute(delete(AssetDagRunQueue))
        return found


def test_news_of_a_version_starts_its_release_dag_with_the_version(airflow: Told, world: World) -> None:
    announce(MODEL, "model_version_alias.created")
    assert airflow() == [{"model": MODEL, "version": "1", "event": "model_version_alias.created"}]
    assert queued() == [f"release_{MODEL}"]


def test_the_same_news_again_is_no_second_event(airflow: Told, world: World) -> None:
    for _ in range(3):
        announce(MODEL, "model_version.created")
    assert len(airflow()) == 1


def test_what_counts_is_what_the_registry_says_when_news_comes_in_the_wrong_order(
    airflow: Told, world: World
) -> None:
    world.registry.aliases_by_model[MODEL]["candidate"] = 3
    announce(MODEL, "an old event that spoke of version 2")
    assert [one["version"] for one in airflow()] == ["3"]


@pytest.mark.parametrize("status", ["releasing", "promoted", "blocked", "rolled_back"])
def test_news_of_a_version_that_was_tried_starts_nothing(airflow: Told, world: World, status: str) -> None:
    world.registry.tags[1] = {"slipway.status": status}
    announce(MODEL, "model_version_alias.created")
    assert airflow() == []


def test_an_alias_that_is_gone_starts_nothing(airflow: Told, world: World) -> None:
    world.registry.aliases_by_model[MODEL].clear()
    announce(MODEL, "model_version_alias.deleted")
    assert airflow() == []


def test_models_that_vanished_or_that_nobody_releases_start_nothing(airflow: Told, world: World) -> None:
    looks = AssetEventQueue(announce)
    for model in ("nobody", "broken"):
        looks.ask(model, "model_version.created")
    del world.registry.aliases_by_model[MODEL]
    looks.ask(MODEL, "model_version.created")
    assert looks.wait(seconds=10)
    assert airflow() == []


def test_a_held_model_starts_nothing(airflow: Told, world: World) -> None:
    cooldowns.hold(world.services, MODEL, "it fails whatever serves", at=datetime.now(UTC))
    announce(MODEL, "model_version_alias.created")
    assert airflow() == []


def test_a_look_that_fails_ends_no_later_one(airflow: Told, world: World) -> None:
    world.registry.down = 1
    looks = AssetEventQueue(announce)
    looks.ask(MODEL, "model_version.created")
    assert looks.wait(seconds=10)
    assert airflow() == []
    looks.ask(MODEL, "model_version.created")
    assert looks.wait(seconds=10)
    assert len(airflow()) == 1


def test_a_thousand_deliveries_with_repeats_in_any_order_start_exactly_the_right_releases(
    airflow: Told, world: World, mlflow: Mlflow, client: TestClient
) -> None:
    """Versions 1 to 4 get the alias one after the other; deliveries are shuffled, a third comes twice."""
    looks = AssetEventQueue(announce)
    app_of(client).state.asset_events = looks
    bodies = [event(version=str(version)) for version in (1, 2, 3, 4)]
    bodies += [event("model_version_tag.set", key="team", value="a"), event("model_version.created")]
    signed = [(body, mlflow.headers(body)) for body in (bodies * 112)[:670]]
    burst = signed + random.Random(7).sample(signed, 330)
    random.Random(8).shuffle(burst)
    for place, (body, headers) in enumerate(burst):
        # The alias moves on while the burst lasts, and ends at version 4.
        world.registry.aliases_by_model[MODEL]["candidate"] = 1 + place // 250
        assert client.post(PATH, content=body, headers=headers).status_code == 202
    assert looks.wait(seconds=30)
    versions = [one["version"] for one in airflow()]
    assert len(versions) == len(set(versions)), "no version is asked for twice"
    assert versions[-1] == "4"
    # One run whatever the number of events; it releases what the alias names when it begins.
    assert queued() == [f"release_{MODEL}"]


def test_the_first_run_that_finds_a_version_tries_it_and_the_others_do_not(world: World) -> None:
    at, ref = datetime.now(UTC), ModelRef(MODEL, 1)
    runs = [f"release_{MODEL}/{name}" for name in ("asset_triggered__1", f"reconcile__{ref}", "scheduled__1")]
    claimed = {world.services.attempts.claim(ref, run, at=at) for run in runs}
    assert claimed == {runs[0]}

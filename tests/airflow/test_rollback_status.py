"""Asking for a rollback over the API, and how far it is told to have come: by the route."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from slipway_airflow import airflow_situation

from serving.web import read_api
from tests.airflow.desk import API, under_way
from tests.airflow.people import ApiServer
from tests.airflow.test_paused_dags import set_paused
from tests.airflow.world import MODEL, World

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]


@pytest.fixture
def world(api_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # No scheduler runs in these tests, which is told, and would be the reason for everything.
    monkeypatch.setattr(airflow_situation, "_silent", dict)
    yield api_world
    set_paused("model_rollback", paused=False)


def serving_again(world: World) -> None:
    """Version 2 was released, 3 serves."""
    release = under_way(world)
    for _ in range(20):
        world.tick(release.id)
    world.lock.release(MODEL, release.id)
    world.serve(3)


def test_a_rollback_is_under_way_until_its_pods_answer_and_done_when_the_route_says_so(
    server: ApiServer, world: World
) -> None:
    serving_again(world)
    world.platform.hold_back(world.bundle(2).id)
    asking = {"version": 2, "reason": "users complain"}
    answer = server.of("rita").post(f"{API}/models/{MODEL}/rollback", json=asking)
    said: dict[str, Any] = answer.json()
    assert (answer.status_code, said["at_once"], said["state"]) == (202, False, "under_way")
    assert said["returned_at"] is None
    place = answer.headers["location"]
    assert place == f"{API}/models/{MODEL}/rollbacks/{said['rollback_id']}"

    def told() -> dict[str, Any]:
        found: dict[str, Any] = server.of("vera").get(place).json()
        return found

    assert told()["state"] == "under_way", "also while Airflow has not begun its run"
    read_api.reset()
    page = server.browser_of("vera").get(f"/slipway/models/{MODEL}").text
    assert "Rollback to v2: under way." in page
    world.platform.release(world.bundle(2).id)
    world.rollouts.jobs.join(20)
    done = told()
    assert (done["state"], done["returned_at"] is not None) == ("traffic_returned", True)
    assert done["words"].startswith("all requests go to version 2 since ")
    read_api.reset()
    row = server.of("vera").get(f"{API}/models/{MODEL}").json()
    assert row["rollback"]["state"] == "traffic_returned"


def test_a_rollback_whose_pods_do_not_start_says_why(server: ApiServer, world: World) -> None:
    serving_again(world)
    world.platform.fail(world.bundle(2).id, "out of memory")
    asking = {"version": 2, "reason": "users complain"}
    answer = server.of("rita").post(f"{API}/models/{MODEL}/rollback", json=asking)
    world.rollouts.jobs.join(20)
    told = server.of("vera").get(answer.headers["location"]).json()
    assert (told["state"], "out of memory" in told["words"]) == ("failed", True)


def test_one_that_is_done_at_once_says_since_when(server: ApiServer, world: World) -> None:
    release = under_way(world)
    answer = server.of("rita").post(f"{API}/models/{MODEL}/rollback", json={"reason": "slow"})
    said = answer.json()
    assert (said["at_once"], said["state"], said["returns"]) == (True, "traffic_returned", 1)
    assert said["words"].startswith("all requests go to version 1 since ")
    assert answer.headers["location"] == f"{API}/releases/{release.id}"


def test_a_paused_rollback_dag_keeps_nobody_from_going_back(server: ApiServer, world: World) -> None:
    serving_again(world)
    set_paused("model_rollback", paused=True)
    asking = {"version": 2, "reason": "users complain"}
    said = server.of("rita").post(f"{API}/models/{MODEL}/rollback", json=asking).json()
    assert said["stands_still"] == ""
    world.rollouts.jobs.join(20)
    assert world.router.read(MODEL).stable.version == 2  # type: ignore[union-attr]
    still = server.of("vera").get(f"{API}/standing-still").json()
    assert {one["model"] for one in still if "model_rollback is paused" in one["words"]} == {""}


def test_a_rollback_that_nobody_asked_for_is_not_there(server: ApiServer, world: World) -> None:
    under_way(world)
    path = f"{API}/models/{MODEL}/rollbacks/{MODEL}-rollback-20260101T000000Z"
    assert server.of("vera").get(path).status_code == 404
    assert server.of("vera").get(f"{API}/models/{MODEL}/rollbacks/none").status_code == 422

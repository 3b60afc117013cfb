"""Rolling back and overriding over the REST API: what is refused before anything is started or moved."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from serving.control import audit_entries
from serving.control.releases import Release
from serving.control.rollout.plan import Phase
from serving.types import ALL_STABLE
from serving.web import read_api
from tests.airflow.desk import API, forget_runs, run_states, under_way
from tests.airflow.people import ApiServer, api_server
from tests.airflow.test_rollbacks import begun, released
from tests.airflow.world import MODEL, World

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]
ROLLBACK = f"/models/{MODEL}/rollback"


@pytest.fixture(scope="module")
def server(in_database: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("people"), {"ada": "admin", "rita": "user"}) as server:
        yield server


@pytest.fixture(autouse=True)
def _fresh(in_database: None) -> None:
    forget_runs()


@pytest.fixture
def post(server: ApiServer) -> Any:
    def post(who: str, path: str, **body: Any) -> tuple[int, Any]:
        answer = server.of(who).post(API + path, json={"reason": "because", **body})
        return answer.status_code, answer.json()

    return post


def end_runs(dag_id: str, state: str) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session(scoped=False) as session:
        session.query(DagRun).filter(DagRun.dag_id == dag_id).update({"state": state})


def refused(answer: tuple[int, Any], status: int, said: str, remedy: str) -> None:
    assert (answer[0], said in answer[1]["detail"]) == (status, True), answer
    assert remedy in answer[1]["remedy"], answer


@pytest.mark.parametrize(("fails", "status"), [(True, 202), (False, 409)])
def test_only_a_rollback_that_did_not_fail_counts_as_one(
    world: World, post: Any, fails: bool, status: int
) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    if fails:
        world.platform.fail(world.bundle(1).id, "out of memory")
    assert post("rita", ROLLBACK)[0] == 202
    world.rollouts.jobs.join(10)
    end_runs("model_rollback", "failed" if fails else "success")
    assert post("ada", ROLLBACK)[0] == status


def test_a_rollback_from_the_only_version_is_refused_before_a_run_is_started(world: World, post: Any) -> None:
    released(world, 1, steps=4)
    refused(post("rita", ROLLBACK), 409, "fraud v1 is the first: no version served before it", "name the")
    assert (run_states("model_rollback"), audit_entries.trail_of(world.services).entries()) == ([], [])


def test_a_rollback_to_a_bundle_that_is_gone_is_refused_before_a_run_is_started(
    world: World, post: Any
) -> None:
    for version in (1, 2):
        released(world, version, steps=4)
    shutil.rmtree(world.store.bundle_path(world.bundle(1).id))
    refused(post("rita", ROLLBACK), 404, "the store has no bundle of fraud v1", "versions with one: 2")
    assert (run_states("model_rollback"), audit_entries.trail_of(world.services).entries()) == ([], [])


def watched(world: World) -> Release:
    """The release of a first version, at its watch."""
    release = world.release(1)
    begun(world, release)
    while world.journal.load(release.id).phase is Phase.PROGRESSING:
        world.tick(release.id)
    return release


def test_the_first_version_is_not_taken_back_by_who_named_no_version(world: World, post: Any) -> None:
    release = watched(world)
    before = world.router.read(MODEL)
    refused(post("rita", ROLLBACK), 409, "fraud v1 is the first: no version served before it", release.id)
    assert world.router.read(MODEL) == before
    assert post("rita", f"/releases/{release.id}/abort")[0] == 200


def test_a_canary_of_a_second_version_still_goes_back_at_once(world: World, post: Any) -> None:
    release = under_way(world)
    assert post("rita", ROLLBACK)[1]["release_id"] == release.id
    assert world.router.read(MODEL).split == ALL_STABLE


@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_release_whose_run_is_over_cannot_pass_a_freeze(world: World, post: Any, state: str) -> None:
    _, asked = post("rita", "/releases", model=MODEL, version="2")
    end_runs(f"release_{MODEL}", state)
    path = f"/releases/{asked['release_id']}/override"
    refused(post("ada", path), 409, f"is over: its run {state}", "look at the release")
    assert [entry.action for entry in audit_entries.trail_of(world.services).entries()] == ["release"]


def test_who_aborts_the_first_version_reads_that_nothing_will_serve(world: World, server: ApiServer) -> None:
    release = watched(world)
    read_api.reset()
    page = server.browser_of("rita").get(f"/slipway/releases/{release.id}", headers={"accept": "text/html"})
    read_api.reset()
    assert "nothing will serve fraud then" in page.text
    assert "what serves now" not in page.text

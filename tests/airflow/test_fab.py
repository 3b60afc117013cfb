"""Airflow's FAB login, with real accounts, roles and permissions: no right, no effect, no information."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from slipway_airflow.authorization import secret_key
from starlette.testclient import TestClient

from serving import composition
from serving.control import wiring
from serving.control.audit import AuditEntry
from serving.control.audit_entries import trail_of
from serving.control.freeze_enforcement import freezes_of
from serving.control.releases import Releases
from serving.ledger.rows import RouteChangeRow
from serving.web import read_api
from serving.web.access import CSRF_COOKIE, CSRF_HEADER, Right, csrf_token
from tests.airflow.desk import (
    API,
    APPROVED,
    answer_of,
    everything,
    forget_runs,
    under_way,
    waiting_for_approval,
)
from tests.airflow.endpoints import ENDPOINTS, PAGES, READ, WHY, Endpoint
from tests.airflow.fab import FAB, OUR_FAB, account_of, fab_server
from tests.airflow.people import BASE, ApiServer
from tests.airflow.world import MODEL, World

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]

READS = ("can_read DAGs", "can_read DAG Runs")
RELEASES = ("can_edit DAGs", "can_create DAG Runs")
APPROVES = ("can_edit DAGs", "can_edit HITL Detail")
ALL, LOOK, ACT = frozenset(Right), {Right.VIEW}, {Right.VIEW, Right.RELEASE, Right.APPROVE}


def only(model: str, *grants: str) -> tuple[str, ...]:
    return tuple(grant.replace("DAGs", f"DAG:release_{model}") for grant in grants)


# What a role holds, and the rights it should come to, by model.
PEOPLE: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "nora": ((), {}),
    "otis": (("Public",), {}),
    "vera": (("Viewer",), {MODEL: LOOK, APPROVED: LOOK}),
    "uma": (("User",), {MODEL: ACT, APPROVED: ACT}),
    "opal": (("Op",), {MODEL: ALL, APPROVED: ALL}),
    "ada": (("Admin",), {MODEL: ALL, APPROVED: ALL}),
    "reed": (READS, {MODEL: LOOK, APPROVED: LOOK}),
    "rolf": (RELEASES, {MODEL: {Right.RELEASE}, APPROVED: {Right.RELEASE}}),
    "anna": (APPROVES, {MODEL: {Right.APPROVE}, APPROVED: {Right.APPROVE}}),
    "amir": (("can_edit Pools",), {MODEL: {Right.ADMIN}, APPROVED: {Right.ADMIN}}),
    "fred": (only(MODEL, *READS), {MODEL: LOOK}),
    "fran": (only(MODEL, *RELEASES), {MODEL: {Right.RELEASE}}),
    "fay": (only(MODEL, *APPROVES), {MODEL: {Right.APPROVE}}),
    "paul": (only(APPROVED, *READS, *RELEASES, *APPROVES), {APPROVED: ACT}),
    "olga": (("can_edit DAG:release_fraud", "can_create DAG Run:release_fraud"), {MODEL: {Right.RELEASE}}),
}
ABOUT_ALL = frozenset({"audit", "freezes"})


@pytest.fixture(scope="module")
def server(in_database: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    people = {name: grants for name, (grants, _) in PEOPLE.items()}
    with fab_server(tmp_path_factory.mktemp("people"), people, OUR_FAB) as server:
        yield server


@pytest.fixture(autouse=True)
def _fresh(in_database: None) -> Iterator[None]:
    forget_runs()
    read_api.reset()
    yield
    read_api.reset()


def world_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(folder)
    monkeypatch.setattr(composition, "wire", lambda home=None: world.services)
    read_api.reset()
    forget_runs()
    return world


def may(who: str, endpoint: Endpoint) -> bool:
    if endpoint.right is None:
        return True
    rights = PEOPLE[who][1]
    model = APPROVED if "{asked}" in endpoint.path else MODEL
    if endpoint.right is Right.VIEW and endpoint.name in ABOUT_ALL:
        return any(Right.VIEW in held for held in rights.values())
    takes = {endpoint.right, Right.RELEASE} if endpoint.name == "override_at_once" else {endpoint.right}
    return takes <= set(rights.get(model, ()))


def path_in(world: World, endpoint: Endpoint) -> str:
    path = endpoint.path.replace("{release}", under_way(world).id)
    return path.replace("{asked}", waiting_for_approval(world, allowed=()).id) if "{asked}" in path else path


def test_the_real_auth_manager_of_fab_answers(server: ApiServer) -> None:
    from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager

    assert isinstance(server.app.state.auth_manager, FabAuthManager)
    assert server.of("vera").get("/api/v2/version").status_code == 200


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_every_role_may_do_what_its_permissions_say(
    server: ApiServer, endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for who in filter(lambda who: may(who, endpoint), PEOPLE):
        path = path_in(world_at(tmp_path / who, monkeypatch), endpoint)
        answer = server.of(who).request(endpoint.method, API + path, json=endpoint.body)
        assert answer.status_code == endpoint.status, (who, answer.text)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_without_the_permission_there_is_no_effect_and_no_information(
    server: ApiServer, endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_at(tmp_path, monkeypatch)
    path, before = path_in(world, endpoint), None
    for who in (None, *PEOPLE):
        if who is not None and may(who, endpoint):
            continue
        before = before or everything(world)
        answer = server.of(who).request(endpoint.method, API + path, json=endpoint.body)
        assert answer.status_code == (403 if who else 401), (who, answer.text)
        assert set(answer.json()) == {"type", "title", "status", "detail", "remedy"}
        assert MODEL not in answer.text, who
        assert APPROVED not in answer.text, who
        assert everything(world) == before, who


@pytest.mark.parametrize("path", [*(API + one for one in READ), *(f"/slipway/{one}" for one in PAGES)])
def test_reading_and_every_page_take_the_permission_to_read(
    server: ApiServer, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_at(tmp_path, monkeypatch)
    is_about_one = MODEL in path or "{release}" in path
    path = path.format(release=under_way(world).id)
    for who, (_, rights) in PEOPLE.items():
        ask = server.browser_of(who) if "/api/" not in path else server.of(who)
        answer = ask.get(path, headers={"accept": "application/json"})
        held = [rights.get(MODEL, ())] if is_about_one else rights.values()
        expected = 200 if any(Right.VIEW in some for some in held) else 403
        assert answer.status_code == expected, (who, answer.text[:200])
        if Right.VIEW not in rights.get(MODEL, ()):
            assert MODEL not in answer.text, who
    stranger = server.of(None).get(path, follow_redirects=False)
    assert stranger.status_code == 401
    assert MODEL not in stranger.text


def test_a_person_without_a_login_is_sent_to_fabs(server: ApiServer) -> None:
    visitor = TestClient(server.app, base_url=BASE, follow_redirects=False)
    answer = visitor.get("/slipway/", headers={"accept": "text/html"})
    assert answer.status_code == 303
    assert "/auth/login/?next=" in answer.headers["location"]


@pytest.mark.parametrize("who", PEOPLE)
def test_each_persons_rights_are_told_as_they_are(server: ApiServer, who: str) -> None:
    _, rights = PEOPLE[who]
    everywhere = set(rights.get(MODEL, ())) & set(rights.get(APPROVED, ()))
    assert server.of(who).get(f"{API}/me").json() == {"name": who, "rights": sorted(everywhere)}


def test_a_cookie_needs_the_pages_token_under_fab_too(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world_at(tmp_path, monkeypatch)
    browser = server.browser_of("opal")
    assert browser.post(f"{API}/freezes", json=WHY).status_code == 403
    for name, status in (("ada", 403), ("opal", 201)):
        browser.cookies.set(CSRF_COOKIE, csrf_token(name, secret_key()))
        headers = {CSRF_HEADER: browser.cookies[CSRF_COOKIE]}
        assert browser.post(f"{API}/freezes", json=WHY, headers=headers).status_code == status
        browser.cookies.delete(CSRF_COOKIE)


@pytest.fixture
def two_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Both have releases, acts, freezes and traffic; one act and one freeze are about every model."""
    world = world_at(tmp_path, monkeypatch)
    at = wiring.now()
    for age, model, who in ((3, APPROVED, "grace"), (2, MODEL, "linus")):
        then = at - timedelta(hours=age)
        entry = AuditEntry(
            then, who, f"act on {model}", model, 1, f"{model}-v1-20261101T000000Z", f"of {model}"
        )
        trail_of(world.services).append(entry)
        freezes_of(world.services).add(model, by=who, reason=f"of {model}", until=None, at=then)
        served = world.start_pods(1)
        world.rows.save(
            RouteChangeRow(
                service=model,
                revision=1,
                at=then,
                stable_version=served.version,
                stable_bundle_id=served.bundle_id,
                candidate_version=None,
                candidate_bundle_id=None,
                candidate_weight=0,
            )
        )
    trail_of(world.services).append(AuditEntry(at, "opal", "freeze", None, reason="all of them"))
    under_way(world)
    waiting_for_approval(world)
    return world


@pytest.mark.parametrize(
    "path",
    [
        *(f"{API}{one}" for one in READ if "{release}" not in one),
        f"{API}/audit",
        f"{API}/freezes",
        f"{API}/history?who=grace",
        f"{API}/releases?status=under_way",
        *(f"/slipway/{one}" for one in PAGES if "{release}" not in one),
        "/slipway/history?at={at}",
        "/slipway/?part=live",
        "/slipway/releases?part=live",
    ],
)
def test_who_may_read_one_model_is_told_nothing_of_others(
    server: ApiServer, two_models: World, path: str
) -> None:
    at = f"{wiring.now() - timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}"
    path = path.replace("{at}", at).replace("2026-11-21T12:00:00Z", at)
    ask = server.of if "/api/" in path else server.browser_of
    theirs, everyones = ask("fred").get(path), ask("vera").get(path)
    assert (theirs.status_code, everyones.status_code) == (200, 200)
    for told in (APPROVED, "nightly", "grace", "broken"):
        assert told not in theirs.text, told
    if "who=grace" in path:
        assert '"matching":0' in theirs.text
    elif "standing-still" in path:
        # Theirs is frozen; what holds everything is told to everybody.
        assert (
            {one["model"] for one in theirs.json()}
            == {"", MODEL}
            < {one["model"] for one in everyones.json()}
        )
    elif "new" not in path:
        assert MODEL in theirs.text or "every model" in theirs.text


def test_what_is_counted_is_counted_without_others(server: ApiServer, two_models: World) -> None:
    fred, vera = server.of("fred"), server.of("vera")
    overview = fred.get(f"{API}/models").json()
    assert [row["name"] for row in overview["models"]] == [MODEL]
    assert (overview["total"], overview["matching"], overview["approvals"]) == (1, 1, [])
    assert fred.get(f"{API}/releases").json()["matching"] == 1
    assert vera.get(f"{API}/releases").json()["matching"] == 2
    acts = {moment["action"] for moment in fred.get(f"{API}/history.json").json()}
    assert {f"act on {MODEL}", "freeze"} <= acts
    assert fred.get(f"{API}/history").json()["matching"] == len(fred.get(f"{API}/history.json").json())
    assert [one["action"] for one in fred.get(f"{API}/audit?limit=2").json()] == ["freeze", f"act on {MODEL}"]
    at = f"{wiring.now():%Y-%m-%dT%H:%M:%SZ}"
    served = fred.get(f"{API}/serving-at?at={at}").json()
    assert [one["model"] for one in served["models"]] == [MODEL]
    assert served["known_since"] > vera.get(f"{API}/serving-at?at={at}").json()["known_since"]


def test_naming_another_model_is_no_way_around(server: ApiServer, two_models: World) -> None:
    fred = server.of("fred")
    for path in ("/releases", "/history", "/history.csv", "/history.json", "/audit", "/freezes"):
        asked = fred.get(f"{API}{path}?model={APPROVED}")
        made_up = fred.get(f"{API}{path}?model=nobody")
        assert (asked.status_code, asked.text) == (403, made_up.text), path
    assert fred.get(f"{API}/models/{APPROVED}").status_code == 403


def test_who_asks_for_a_model_without_a_spec_learns_only_their_own(server: ApiServer) -> None:
    unknown = {"model": "nobody", "version": "1", **WHY}
    assert APPROVED in server.of("ada").post(f"{API}/releases", json=unknown).json()["remedy"]
    frozen = server.of("amir").post(f"{API}/freezes", json={"model": "nobody", **WHY})
    assert (frozen.status_code, frozen.json()["remedy"]) == (404, "models with a spec: none")


def test_a_model_that_does_not_serve_tells_nothing_of_those_that_do(
    server: ApiServer, two_models: World
) -> None:
    path = f"{API}/models/{APPROVED}/rollback"
    answers = {who: server.of(who).post(path, json=WHY) for who in ("uma", "paul")}
    assert [answer.status_code for answer in answers.values()] == [404, 404]
    assert MODEL in answers["uma"].json()["remedy"]
    assert answers["paul"].json()["remedy"] == "models that serve: none"


def test_who_may_release_one_model_is_offered_that_one(server: ApiServer, two_models: World) -> None:
    page = server.browser_of("uma").get("/slipway/new").text
    assert f"<option>{MODEL}</option>" in page
    assert f"<option>{APPROVED}</option>" in page
    page = server.browser_of("paul").get("/slipway/new").text
    assert f"<option>{APPROVED}</option>" in page
    assert MODEL not in page


def test_a_spec_names_approvers_by_the_names_they_log_in_with(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_at(tmp_path, monkeypatch)
    release = waiting_for_approval(world, allowed=("anna",))
    path = f"{API}/releases/{release.id}/approve"
    refused = server.of("uma").post(path, json=WHY)
    assert (refused.status_code, answer_of(release).response_received) == (403, False)
    assert server.of("anna").post(path, json=WHY).status_code == 200
    assert answer_of(release).responded_by_user == {"id": str(account_of("anna")), "name": "anna"}
    (entry,) = trail_of(world.services).entries(release_id=release.id)
    assert (entry.who, entry.action) == ("anna", "approve")


def test_airflows_own_page_asks_the_same_people(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = waiting_for_approval(world_at(tmp_path, monkeypatch), allowed=("anna",))
    of_run = f"/api/v2/dags/release_{APPROVED}/dagRuns/{release.request.run_id}"
    path = f"{of_run}/taskInstances/approval.approve_1/-1/hitlDetails"
    said = {"chosen_options": ["Approve"], "params_input": {}}
    assert [server.of(who).patch(path, json=said).status_code for who in ("uma", "fay", "anna")] == [
        403,
        403,
        200,
    ]


def test_who_calls_himself_by_a_number_is_nobody_elses_account(server: ApiServer) -> None:
    from airflow.providers.fab.auth_manager.models import User

    manager = server.app.state.auth_manager
    liar, seven = User(id=8, username="7"), User(id=7, username="sven")
    assert not manager.is_authorized_hitl_task(assigned_users={"7"}, user=liar)
    assert manager.is_authorized_hitl_task(assigned_users={"7"}, user=seven)


def test_the_author_named_by_id_does_not_approve_nor_anybody_twice(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_at(tmp_path, monkeypatch)
    account = str(account_of("anna"))
    release = waiting_for_approval(world, allowed=(account,))
    object.__setattr__(release.spec.approval, "approvers", [account])
    monkeypatch.setattr(Releases, "load", lambda _, release_id: release)
    monkeypatch.setattr(world.registry, "authors", lambda ref: ("anna",))
    answer = server.of("anna").post(f"{API}/releases/{release.id}/approve", json=WHY)
    assert (answer.status_code, answer.json()["detail"]) == (403, "anna made the version")
    assert not answer_of(release).response_received
    assert not trail_of(world.services).entries(release_id=release.id)


def test_under_fabs_own_login_a_name_is_nobody(
    in_database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fab_server(tmp_path, {"anna": APPROVES}, FAB) as plain:
        world = world_at(tmp_path / "world", monkeypatch)
        release = waiting_for_approval(world, allowed=("anna",))
        answer = plain.of("anna").post(f"{API}/releases/{release.id}/approve", json=WHY)
        assert (answer.status_code, answer_of(release).response_received) == (403, False)

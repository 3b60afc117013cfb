"""Who may do what: Airflow's login, Airflow's permissions, and no way around them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slipway_airflow.authorization import secret_key

from serving import composition
from serving.web.access import CSRF_COOKIE, CSRF_HEADER, Right, csrf_token
from tests.airflow.desk import API, APPROVED, everything, forget_runs, under_way, waiting_for_approval
from tests.airflow.endpoints import ENDPOINTS, WHY, Endpoint
from tests.airflow.people import OUR_LOGIN, OURS, SIMPLE, ApiServer, api_server
from tests.airflow.world import MODEL, World

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]

RIGHTS = {
    "viewer": {Right.VIEW},
    "user": {Right.VIEW, Right.RELEASE, Right.APPROVE},
    "releaser": {Right.VIEW, Right.RELEASE},
    "approver": {Right.VIEW, Right.APPROVE},
    "op": set(Right),
    "admin": set(Right),
}
SERVERS = {"simple": (SIMPLE, ""), "ours": (OURS, OUR_LOGIN)}


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, in_database: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServer]:
    roles, login = SERVERS[request.param]
    with api_server(tmp_path_factory.mktemp("people"), roles, login) as server:
        server.roles = dict(roles)
        yield server


@pytest.fixture(autouse=True)
def _fresh(in_database: None) -> None:
    forget_runs()


def ask(server: ApiServer, who: str | None, endpoint: Endpoint, world: World) -> tuple[Any, bool]:
    path = endpoint.path.replace("{release}", under_way(world).id)
    if "{asked}" in path:
        path = path.replace("{asked}", waiting_for_approval(world, allowed=()).id)
    before = everything(world)
    answer = server.of(who).request(endpoint.method, API + path, json=endpoint.body)
    return answer, everything(world) == before


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_every_role_may_do_what_its_rights_say_and_nothing_else(
    server: ApiServer, endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for who, role in server.roles.items():
        world = World(tmp_path / who)
        monkeypatch.setattr(composition, "wire", lambda home=None, world=world: world.services)
        forget_runs()
        answer, is_untouched = ask(server, who, endpoint, world)
        if endpoint.right is None or endpoint.right in RIGHTS[role]:
            assert answer.status_code == endpoint.status, (role, answer.text)
            continue
        assert answer.status_code == 403, (role, answer.text)
        assert is_untouched, role
        assert set(answer.json()) == {"type", "title", "status", "detail", "remedy"}
        assert MODEL not in answer.text


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_without_a_login_there_is_no_effect_and_no_information(
    server: ApiServer, world: World, endpoint: Endpoint
) -> None:
    answer, is_untouched = ask(server, None, endpoint, world)
    assert (answer.status_code, is_untouched) == (401, True)
    assert answer.headers["content-type"] == "application/problem+json"
    assert MODEL not in answer.text
    assert APPROVED not in answer.text


def test_every_endpoint_that_acts_is_in_this_table(server: ApiServer) -> None:
    described = server.of("ada").get(f"{API}/openapi.json").json()["paths"]
    acting = {
        (method.upper(), path)
        for path, methods in described.items()
        for method, operation in methods.items()
        if {"actions", "freezes"} & set(operation.get("tags", ()))
    }
    names = {"{release}": "{release_id}", "{asked}": "{release_id}", "0123456789ab": "{freeze_id}"}
    table = set()
    for endpoint in ENDPOINTS:
        path = endpoint.path.partition("?")[0].replace(f"/{MODEL}/", "/{model}/")
        for ours, theirs in names.items():
            path = path.replace(ours, theirs)
        table.add((endpoint.method, f"/api/v1{path}"))
    assert acting == table


@pytest.mark.parametrize("path", ["/releases/nobody-v1-20200101T000000Z/pause", "/models/nobody/rollback"])
def test_who_may_not_act_does_not_learn_what_exists(server: ApiServer, world: World, path: str) -> None:
    release = under_way(world)
    there = path.replace("nobody-v1-20200101T000000Z", release.id).replace("nobody", MODEL)
    answers = [server.of("vera").post(API + one, json=WHY) for one in (path, there)]
    assert answers[0].json() == answers[1].json()


def test_a_forged_token_is_refused(server: ApiServer, world: World) -> None:
    head, _, rest = server.token("ada").partition(".")
    for forged in (f"{head}.{rest[:-4]}AAAA", "nonsense", ""):
        answer = server.client.get(f"{API}/audit", headers={"Authorization": f"Bearer {forged}"})
        assert answer.status_code in (401, 403)


def test_a_browser_has_to_send_the_pages_token_with_every_change(server: ApiServer, world: World) -> None:
    browser, body = server.browser_of("ada"), {"reason": "holidays"}
    assert browser.get(f"{API}/freezes").status_code == 200
    assert browser.post(f"{API}/freezes", json=body).status_code == 403
    token = csrf_token("ada", secret_key())
    assert browser.post(f"{API}/freezes", json=body, headers={CSRF_HEADER: token}).status_code == 403
    browser.cookies.set(CSRF_COOKIE, token)
    assert browser.post(f"{API}/freezes", json=body).status_code == 403
    assert browser.post(f"{API}/freezes", json=body, headers={CSRF_HEADER: token}).status_code == 201


def test_a_token_of_somebody_else_or_of_nobody_does_not_count(server: ApiServer, world: World) -> None:
    for token in (csrf_token("vera", secret_key()), "a.b", "", "é.é"):
        browser = server.browser_of("ada")
        browser.cookies.set(CSRF_COOKIE, token.encode("ascii", "replace").decode())
        headers = {CSRF_HEADER: token.encode("ascii", "replace").decode()}
        assert browser.post(f"{API}/freezes", json=WHY, headers=headers).status_code == 403


def test_a_login_that_is_no_bearers_does_not_excuse_the_token(server: ApiServer, world: World) -> None:
    browser = server.browser_of("ada")
    for header in ("Basic YTpi", "Bearer", "Bearer "):
        answer = browser.post(f"{API}/freezes", json=WHY, headers={"Authorization": header})
        assert answer.status_code in (401, 403)


def test_who_opens_a_page_without_a_login_is_sent_to_it(server: ApiServer) -> None:
    from starlette.testclient import TestClient

    visitor = TestClient(server.app, base_url="http://localhost:8080", follow_redirects=False)
    answer = visitor.get("/slipway/", headers={"accept": "text/html"})
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/auth/login?next=")


def test_airflows_own_page_refuses_who_may_not_release_or_approve(server: ApiServer, world: World) -> None:
    reader, releaser, may = ("anna", "rolf", "grace") if "rolf" in server.roles else ("vera", "vera", "rita")
    run = {"logical_date": None, "conf": {"version": "3"}}
    assert server.of(reader).post(f"/api/v2/dags/release_{MODEL}/dagRuns", json=run).status_code == 403
    release = waiting_for_approval(world, allowed=(releaser, may))
    of_run = f"/api/v2/dags/release_{APPROVED}/dagRuns/{release.request.run_id}"
    path = f"{of_run}/taskInstances/approval.approve_1/-1/hitlDetails"
    said = {"chosen_options": ["Approve"], "params_input": {}}
    assert server.of(releaser).patch(path, json=said).status_code == 403
    assert server.of(may).patch(path, json=said).status_code == 200


def test_a_login_ends_with_its_account_and_has_the_role_of_now(
    server: ApiServer, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    if server.app.state.auth_manager.__class__.__name__ != "SlipwayLogin":
        return  # Airflow's own believes the token until it expires
    grace = server.of("grace")
    assert grace.get(f"{API}/me").json()["rights"] == ["approve", "view"]
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "ada:admin,grace:viewer")
    assert grace.get(f"{API}/me").json()["rights"] == ["view"]
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "ada:admin")
    assert grace.get(f"{API}/me").status_code == 403

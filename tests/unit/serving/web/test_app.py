"""The page in a host that is no Airflow: who gets in, what is answered, and what runs are started."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from serving import composition
from serving.control import wiring
from serving.control.rollbacks import DAG_ID
from serving.web import read_api
from serving.web.access import CSRF_COOKIE, CSRF_HEADER, csrf_token
from serving.web.app import make_app, prepare
from tests.airflow.world import MODEL, SPEC, World
from tests.unit.serving.control.test_answers_through_gateway import Candidate, asked, begun
from tests.unit.serving.web.host import USER, MemoryDags, memory_host

API = "/api/v1"
WHY = {"reason": "because"}
# What programs sign, what describes the API, and files with nothing of anybody in them.
OPEN = {"/webhooks/mlflow", "/alerts", f"{API}/docs", "/static/{digest}/{name}"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path)
    monkeypatch.setattr(composition, "wire", lambda home=None: made.services)
    read_api.reset()
    yield made
    read_api.reset()


@pytest.fixture
def dags() -> MemoryDags:
    return MemoryDags(f"release_{MODEL}", DAG_ID)


@pytest.fixture
def app(dags: MemoryDags) -> FastAPI:
    return make_app(memory_host(SPEC.parent, dags))


def client(app: FastAPI, name: str | None = "ada") -> TestClient:
    headers = {USER: name, "Authorization": "Bearer x"} if name else {}
    return TestClient(app, headers=headers, follow_redirects=False)


def closed(app: FastAPI) -> list[tuple[str, str]]:
    """Every address that takes a login."""
    routes = [route for route in app.routes if isinstance(route, APIRoute) and route.path not in OPEN]
    return [(method, route.path) for route in routes for method in sorted(route.methods)]


def test_every_address_but_four_takes_a_login(app: FastAPI) -> None:
    asked = closed(app)
    assert len(asked) > 30
    for method, path in asked:
        assert client(app, None).request(method, path).status_code == 401, f"{method} {path}"


def test_a_host_that_names_nobody_lets_nobody_in(world: World) -> None:
    def forgetful(request: Request) -> None:
        """It forgot to say who asks."""

    app = make_app(memory_host(SPEC.parent, login=forgetful))
    for method, path in closed(app):
        assert client(app).request(method, path).status_code == 401, f"{method} {path}"


def test_who_opens_a_page_without_a_login_is_sent_to_the_hosts_form(app: FastAPI) -> None:
    answer = client(app, None).get("/history", headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?back=/history")


@pytest.mark.parametrize("path", ["/", f"/models/{MODEL}", "/releases", "/history", "/new", "/freezes-page"])
def test_pages_are_shown_without_airflow(app: FastAPI, world: World, path: str) -> None:
    world.serve(1)
    answer = client(app).get(path)
    assert answer.status_code == 200
    assert "Releases" in answer.text


def test_a_cookie_alone_changes_nothing_and_the_pages_token_is_the_hosts(app: FastAPI, world: World) -> None:
    browser = TestClient(app, headers={USER: "ada"})
    assert browser.post(f"{API}/freezes", json=WHY).status_code == 403
    for key, status in (("another key", 403), ("a key of these tests", 201)):
        token = csrf_token("ada", key)
        browser.cookies.set(CSRF_COOKIE, token)
        assert browser.post(f"{API}/freezes", json=WHY, headers={CSRF_HEADER: token}).status_code == status


def test_a_release_starts_a_run_of_the_hosts_and_the_same_one_again_is_refused(
    app: FastAPI, world: World, dags: MemoryDags
) -> None:
    asked = {"model": MODEL, "version": "3", **WHY}
    answer = client(app).post(f"{API}/releases", json=asked)
    assert answer.status_code == 202
    ((dag_id, run_id), run), *_ = dags.runs.items()
    assert (dag_id, run.by, run.said["version"]) == (f"release_{MODEL}", "ada", "3")
    assert answer.json()["run"] == {
        "dag_id": dag_id,
        "run_id": run_id,
        "url": f"/dags/{dag_id}/runs/{run_id}",
    }
    again = client(app, "grace").post(f"{API}/releases", json=asked)
    assert (again.status_code, again.json()["detail"][:24]) == (409, f"ada asked for {MODEL} v3 a")


def test_a_release_of_a_paused_dag_says_what_keeps_it(app: FastAPI, world: World, dags: MemoryDags) -> None:
    dags.paused.add(f"release_{MODEL}")
    told = client(app).post(f"{API}/releases", json={"model": MODEL, "version": "3", **WHY}).json()
    assert "paused" in told["stands_still"]
    assert told["way_out"]


def test_what_a_hosts_database_raises_on_a_full_disk_is_an_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StoreError(Exception):
        """As a library wraps what SQLite raises."""

        def __init__(self) -> None:
            self.orig = sqlite3.OperationalError("database or disk is full")
            self.orig.sqlite_errorname = "SQLITE_FULL"

    host = memory_host(SPEC.parent)
    app = make_app(replace(host, database="their database", database_errors=(StoreError,)))

    def full(*_: Any, **__: Any) -> None:
        raise StoreError

    monkeypatch.setattr(composition, "wire", full)
    answer = client(app).get(f"{API}/releases/preview?model={MODEL}")
    assert answer.status_code == 507
    assert "their database" in answer.json()["detail"]


def test_pages_are_made_ready_before_anybody_asks(
    app: FastAPI, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.web import app as module

    monkeypatch.setattr(module.gc, "freeze", lambda: None)
    assert not read_api.is_made()
    prepare(app.state.host)
    assert read_api.is_made()
    assert wiring.now() >= read_api.whole_catalog(app.state.host.runs).now().replace(microsecond=0)


def test_the_history_says_that_a_first_version_was_asked_before_its_callers(
    app: FastAPI, world: World
) -> None:
    release = begun(world)
    asked(world, release, Candidate())
    (told,) = (
        one
        for one in client(app).get(f"{API}/history?model={MODEL}").json()["moments"]
        if one["action"] == "answers compared"
    )
    assert told["reason"] == "64 evaluation rows were answered through the gateway as in the gates"
    assert (told["model"], told["version"]) == (MODEL, 1)

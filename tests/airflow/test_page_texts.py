"""What people read when something is refused, is yet to come, or cannot be done from here."""

from __future__ import annotations

from datetime import timedelta

import pytest

from serving.control import wiring
from serving.web.rendering import code
from tests.airflow.desk import API
from tests.airflow.people import ApiServer
from tests.airflow.world import MODEL, World

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]
HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture(autouse=True)
def world(api_world: World) -> World:
    return api_world


# a reason


@pytest.mark.parametrize(
    "reason", ["a team \U0001f469\u200d\U0001f52c", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"]
)
def test_joiners_that_some_scripts_and_emoji_need_may_be_in_a_reason(server: ApiServer, reason: str) -> None:
    asked = {"model": MODEL, "version": "2", "reason": reason}
    assert server.of("rita").post(f"{API}/releases", json=asked).status_code == 202


@pytest.mark.parametrize("reason", ["safe\u202etxt", "\u200d", " \u200c ", "bell\x07"])
def test_a_refused_reason_is_refused_in_a_sentence(server: ApiServer, reason: str) -> None:
    asked = {"model": MODEL, "version": "2", "reason": reason}
    answer = server.of("rita").post(f"{API}/releases", json=asked)
    assert answer.status_code == 422
    detail = answer.json()["detail"]
    assert detail.startswith("body.reason: say why")
    assert "[" not in detail


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"model": "../x", "version": "2"}, "body.model: a model's name has letters"),
        ({"model": MODEL, "version": "1; drop"}, "body.version: a version is a number or an alias"),
    ],
)
def test_a_refused_name_is_refused_in_a_sentence(server: ApiServer, body: dict[str, str], words: str) -> None:
    detail = server.of("rita").post(f"{API}/releases", json={**body, "reason": "x"}).json()["detail"]
    assert detail.startswith(words)
    assert "pattern" not in detail


# a page that cannot be shown


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("history?since=garbage", 422, "write a moment as 2026-11-21T12:00:00Z"),
        ("?page=0", 422, "page"),
        ("nothere", 404, "Not Found"),
        ("static/0/nothere.css", 404, "there is no nothere.css"),
    ],
)
def test_a_browser_is_told_on_a_page_and_a_program_by_a_problem(
    server: ApiServer, path: str, status: int, words: str
) -> None:
    page = server.browser_of("vera").get(f"/slipway/{path}", headers=HTML)
    assert page.status_code == status
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert words.lower() in page.text.lower()
    assert "Value error" not in page.text
    assert 'href="/slipway/"' in page.text
    told = server.of("vera").get(f"/slipway/{path}")
    assert (told.status_code, told.headers["content-type"]) == (status, "application/problem+json")


def test_the_form_sent_without_script_does_nothing_and_says_so(server: ApiServer) -> None:
    page = server.browser_of("rita").get("/slipway/new", headers=HTML).text
    form = page.split('<form id="release-form"')[1].split(">")[0]
    assert 'method="post"' in form, "a reason belongs into no address"
    assert "<noscript>" in page
    sent = server.browser_of("rita").post("/slipway/new", headers=HTML, data={"reason": "secret"})
    assert sent.status_code == 405
    assert "nothing was done" in sent.text.lower()


def test_the_moment_is_sent_without_script_too(server: ApiServer) -> None:
    page = server.browser_of("vera").get("/slipway/history?at=2026-11-21T12:00:00").text
    assert '<input id="moment" name="at"' in page
    assert page.count('name="at"') == 1
    assert 'value="2026-11-21T12:00:00"' in page


# a moment that is yet to come


def test_what_will_serve_is_not_told_as_a_fact(server: ApiServer, world: World) -> None:
    later = (wiring.now() + timedelta(hours=1)).isoformat()
    answer = server.of("vera").get(f"{API}/serving-at", params={"at": later})
    assert answer.status_code == 422
    assert "is yet to come" in answer.json()["detail"]
    page = server.browser_of("vera").get("/slipway/history", params={"at": later})
    assert page.status_code == 200
    assert "is yet to come" in page.text
    assert "No route has ever been written" not in page.text


def test_a_clock_may_be_a_little_ahead(server: ApiServer, world: World) -> None:
    soon = (wiring.now() + timedelta(seconds=30)).isoformat()
    assert server.of("vera").get(f"{API}/serving-at", params={"at": soon}).status_code == 200


# a spec that is refused


def test_the_page_of_a_refused_spec_says_why_and_where_to_read_it(server: ApiServer) -> None:
    page = server.browser_of("rita").get("/slipway/models/broken").text
    asked = {"model": "broken", "version": "1", "reason": "x"}
    complaint = server.of("rita").post(f"{API}/releases", json=asked).json()["detail"]
    first = complaint.removeprefix("the spec of broken is refused: ").split("'")[0]
    assert first in page
    assert 'href="/dags/release_broken"' in page
    assert "Release one" not in page
    assert "start one here" not in page


# the API's description


def test_the_api_is_described_without_another_host(server: ApiServer) -> None:
    page = server.browser_of("vera").get(f"{API}/docs", headers=HTML)
    assert page.status_code == 200
    assert "://" not in page.text.replace("http://www.w3.org", "")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    document = server.of("vera").get(f"{API}/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"<b>{method.upper()}</b> <code>{path}</code>" in page.text, path
    assert "expected_digest" in page.text
    assert "<code>POST /auth/token</code>" in page.text


def test_code_among_words_is_set_as_code_and_escaped() -> None:
    assert code("a `<b>` & c") == "a <code>&lt;b&gt;</code> &amp; c"
    assert code("one ` alone") == "one ` alone"

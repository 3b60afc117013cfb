"""The pages and what they read, behind Airflow's real API server and login."""

from __future__ import annotations

import pytest

from model_store.release_spec import load
from serving.control import freeze_enforcement, wiring
from serving.control.audit import AuditEntry
from serving.control.audit_entries import trail_of
from serving.control.releases import Request
from serving.web import read_api
from tests.airflow.desk import API, BUNDLE, OTHER_BUNDLE, under_way, waiting_for_approval
from tests.airflow.endpoints import PAGES, READ
from tests.airflow.people import ApiServer
from tests.airflow.world import MODEL, SPEC, World

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]

EVIL = "<script>alert('reason')</script>"


@pytest.fixture
def world(api_world: World) -> World:
    return api_world


@pytest.mark.parametrize("path", PAGES)
def test_a_page_takes_a_login_and_then_comes_with_a_strict_policy(
    server: ApiServer, world: World, path: str
) -> None:
    path = path.format(release=under_way(world).id)
    html = {"accept": "text/html"}
    stranger = server.of(None).get(f"/slipway/{path}", headers=html, follow_redirects=False)
    assert stranger.status_code == 303
    assert "/auth/login" in stranger.headers["location"]
    page = server.browser_of("vera").get(f"/slipway/{path}", headers=html)
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert " style=" not in page.text
    assert "<script>" not in page.text


@pytest.mark.parametrize("path", READ)
def test_reading_takes_a_login(server: ApiServer, world: World, path: str) -> None:
    path = path.format(release=under_way(world).id)
    refused = server.of(None).get(API + path)
    assert refused.status_code == 401
    assert MODEL not in refused.text
    assert server.of("vera").get(API + path).status_code == 200


def test_who_may_only_look_is_offered_nothing_else(server: ApiServer, world: World) -> None:
    path = f"/slipway/releases/{under_way(world).id}"
    looking, releasing = server.browser_of("vera").get(path).text, server.browser_of("rita").get(path).text
    assert "data-act" not in looking
    assert "New release" not in looking
    assert all(f"{act}</button>" in releasing for act in ("Pause", "Skip hold", "Abort"))


def test_html_in_names_and_reasons_is_text(server: ApiServer, world: World) -> None:
    request = Request(f"release_{MODEL}", "run", wiring.now(), "3", EVIL, f"{EVIL}rita", False)
    release = world.releases.open(request, load(SPEC), lambda _: 3)
    trail_of(world.services).append(
        AuditEntry(wiring.now(), EVIL, EVIL, MODEL, 3, release.id, EVIL, {"x": EVIL})
    )
    browser = server.browser_of("vera")
    for path in (f"releases/{release.id}", "history", "", "releases", f"models/{MODEL}"):
        for part in ("", "?part=live"):
            page = browser.get(f"/slipway/{path}{part}").text
            assert "<script>" not in page, path
    assert "&lt;script&gt;" in browser.get("/slipway/history").text


def test_what_a_freeze_holds_half_way_may_be_overridden_or_paused_but_not_resumed(
    server: ApiServer, world: World
) -> None:
    release = under_way(world)
    freeze_enforcement.freezes_of(world.services).add(
        MODEL, by="ada", reason="audit", until=None, at=wiring.now()
    )
    freeze_enforcement.enforce(world.services, world.journal.load(release.id), release)
    path = f"releases/{release.id}"
    admin, releaser = (server.browser_of(name).get(f"/slipway/{path}").text for name in ("ada", "rita"))
    assert '<span class="pill warn">' in releaser
    assert "Frozen</span>" in releaser
    assert "Frozen.</strong> Frozen until somebody lifts it: audit (ada)" in releaser
    assert ("Override freeze</button>" in admin, "Override freeze</button>" in releaser) == (True, False)
    assert "Resume</button>" not in admin + releaser
    assert "Pause</button>" in releaser
    why = {"reason": "not before Monday", "generation": world.journal.load(release.id).generation}
    answer = server.of("rita").post(f"{API}/{path}/pause", json=why)
    assert (answer.status_code, answer.json()["paused"]) == (200, "by rita: not before Monday")
    read_api.reset()
    assert "Resume</button>" in server.browser_of("rita").get(f"/slipway/{path}").text


def test_only_what_changed_is_sent_again(server: ApiServer, world: World) -> None:
    release = under_way(world)
    client, path = server.of("vera"), f"{API}/releases/{release.id}/series"
    first = client.get(path)
    again = client.get(path, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    page = server.browser_of("vera").get("/slipway/").text
    style = page.split('rel="stylesheet" href="')[1].split('"')[0]
    assert "immutable" in client.get(style).headers["cache-control"]


def test_who_waits_for_people_is_said_with_whom(server: ApiServer, world: World) -> None:
    release = waiting_for_approval(world, allowed=("ada", "rita"))
    world.services.lock.acquire(release.model, _claim(release.request, release.id))
    found = server.of("vera").get(f"{API}/releases/{release.id}").json()
    assert found["row"]["status"] == "waiting_for_approval"
    assert found["approvals"][0]["who_may"] == ["ada", "rita"]
    assert "Approve</button>" in server.browser_of("rita").get(f"/slipway/releases/{release.id}").text


def test_the_page_names_the_bundle_and_says_why_it_is_asked_about_again(
    server: ApiServer, world: World
) -> None:
    release = waiting_for_approval(world, allowed=("ada", "rita"))
    world.services.lock.acquire(release.model, _claim(release.request, release.id))
    for bundle in (OTHER_BUNDLE, BUNDLE):
        world.releases.built(release.id, bundle, at=wiring.now())
    reader = server.of("vera")
    (asked,) = reader.get(f"{API}/releases/{release.id}").json()["approvals"]
    assert asked["bundle_id"] == BUNDLE
    assert f"answered about bundle {OTHER_BUNDLE} does not count" in asked["again"]
    for path in (f"releases/{release.id}", "", f"models/{release.model}"):
        page = server.browser_of("rita").get(f"/slipway/{path}").text
        assert page.count(f'data-bundle="{BUNDLE}"') == 2, path
    (told,) = reader.get(f"{API}/history?action=built again").json()["moments"]
    assert told["detail"] == f"bundle {BUNDLE} in place of {OTHER_BUNDLE}"
    moments = reader.get(f"{API}/releases/{release.id}").json()["moments"]
    assert [moment["action"] for moment in moments] == ["built again"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/models/nobody", 404),
        ("/releases/nobody-v1-20261121T120000Z", 404),
        ("/releases/nobody-v1-20261121T120000Z/series", 404),
        ("/releases/..%2F..%2Fetc", 404),
        ("/models?page=0", 422),
        ("/releases?status=unheard", 422),
        ("/history?since=yesterday", 422),
        ("/serving-at", 422),
    ],
)
def test_what_is_not_there_or_not_understood_is_a_problem(
    server: ApiServer, world: World, path: str, status: int
) -> None:
    answer = server.of("vera").get(API + path)
    assert answer.status_code == status
    if answer.headers["content-type"] == "application/problem+json":
        assert answer.json()["remedy"]


def test_a_missing_page_is_a_page(server: ApiServer, world: World) -> None:
    answer = server.browser_of("vera").get("/slipway/models/nobody")
    assert answer.status_code == 404
    assert "There is no model nobody." in answer.text


def _claim(request: Request, name: str) -> object:
    from serving.control.rollout.lock import Claim

    return Claim(request.at, name)

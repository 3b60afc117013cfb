"""The page's script in a real browser, whose requests go straight into Airflow's app: no stack is needed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from starlette.testclient import TestClient

from serving.control import freeze_enforcement, wiring
from serving.control.bundle_comparison import BundleComparison, Figure, Parameter
from tests.airflow.desk import API, run_states, under_way
from tests.airflow.people import BASE, ApiServer
from tests.airflow.world import MODEL, World
from tests.tools import CHROMIUM, needs

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.filterwarnings("default"),
    needs(CHROMIUM),
]
_NOT_PASSED_ON = ("content-length", "content-encoding", "transfer-encoding", "set-cookie")


@pytest.fixture
def world(api_world: World) -> World:
    return api_world


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM.path(), args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """Somebody in front of the page. `sign_out` lets their login run out."""

    def __init__(self, page: Page, client: TestClient) -> None:
        self.page = page
        self._client = client
        page.route("**/*", self._answer)

    def sign_out(self) -> None:
        self._client.cookies.delete("_token")

    def _answer(self, route: Route) -> None:
        asked = route.request
        headers = {name: value for name, value in asked.headers.items() if name != "cookie"}
        answer = self._client.request(
            asked.method, asked.url, headers=headers, content=asked.post_data_buffer or b""
        )
        said = {name: value for name, value in answer.headers.items() if name not in _NOT_PASSED_ON}
        if token := self._client.cookies.get("slipway_csrf"):
            said["set-cookie"] = f"slipway_csrf={token}; path=/"
        route.fulfill(status=answer.status_code, headers=said, body=answer.content)


@pytest.fixture
def rita(server: ApiServer, world: World, chromium: Browser) -> Iterator[Visitor]:
    with chromium.new_context(base_url=BASE, timezone_id="Europe/Berlin") as context:
        yield Visitor(context.new_page(), server.browser_of("rita"))


def preview(rita: Visitor) -> None:
    rita.page.goto(f"/slipway/new?model={MODEL}&version=candidate")
    rita.page.get_by_role("button", name="Preview what will run").click()
    expect(rita.page.locator("#preview")).to_contain_text(f"Release {MODEL} v1")


def test_an_alias_that_moves_after_the_preview_starts_nothing(rita: Visitor, world: World) -> None:
    preview(rita)
    world.registry.aliases_by_model[MODEL]["candidate"] = 4
    rita.page.get_by_label("Reason").first.fill("better")
    rita.page.get_by_role("button", name="Release", exact=True).click()
    expect(rita.page.locator("#release-problem")).to_contain_text("is version 4 by now, not version 1")
    assert run_states(f"release_{MODEL}") == []


def test_what_was_previewed_is_gone_when_something_else_is_typed(rita: Visitor, world: World) -> None:
    preview(rita)
    rita.page.get_by_label("Version").fill("2")
    expect(rita.page.locator("#preview")).to_be_empty()
    rita.page.get_by_label("Reason").first.fill("better")
    rita.page.get_by_role("button", name="Release", exact=True).click()
    rita.page.wait_for_url(f"**/slipway/releases/{MODEL}-v2-*")
    assert run_states(f"release_{MODEL}") == ["queued"]


def test_whose_session_is_over_is_told_so_and_can_sign_in(rita: Visitor, world: World) -> None:
    rita.page.goto(f"/slipway/releases/{under_way(world).id}")
    rita.page.get_by_role("button", name="Pause").first.click()
    rita.page.get_by_label("Reason").fill("lunch")
    rita.sign_out()
    rita.page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    problem = rita.page.locator("#act-problem")
    expect(problem).to_contain_text("You are signed out")
    expect(problem).not_to_contain_text("token")
    expect(problem.get_by_role("link", name="Sign in")).to_have_attribute("href", "/slipway/")
    expect(rita.page.get_by_label("Reason")).to_have_value("lunch")


def test_a_moment_is_typed_in_the_readers_own_zone(rita: Visitor, world: World) -> None:
    rita.page.goto("/slipway/history")
    rita.page.get_by_role("textbox", name="Moment").fill("2026-11-21T13:00:05")
    rita.page.get_by_role("button", name="Show").click()
    rita.page.wait_for_url("**/history?at=2026-11-21T12*")
    expect(rita.page.get_by_role("textbox", name="Moment")).to_have_value("2026-11-21T13:00:05")
    later = (wiring.now() + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S")
    rita.page.get_by_role("textbox", name="Moment").fill(later)
    rita.page.get_by_role("button", name="Show").click()
    expect(rita.page.locator("main")).to_contain_text("is yet to come")


def test_without_script_a_moment_is_asked_for_in_utc_and_no_form_acts(
    server: ApiServer, world: World, chromium: Browser
) -> None:
    with chromium.new_context(base_url=BASE, java_script_enabled=False) as context:
        page = Visitor(context.new_page(), server.browser_of("rita")).page
        page.goto("/slipway/history")
        page.get_by_role("textbox", name="Moment UTC").fill("2026-11-21T13:00:05")
        page.get_by_role("button", name="Show").click()
        page.wait_for_url("**/history?at=2026-11-21T13*")
        expect(page.locator("main")).to_contain_text("No route has ever been written")
        page.goto(f"/slipway/new?model={MODEL}")
        page.get_by_label("Reason").first.fill("a secret")
        page.get_by_role("button", name="Release", exact=True).click()
        expect(page.locator("main")).to_contain_text("Nothing was done")
        assert "secret" not in page.url


FOUND = BundleComparison(
    before="v1 as fp32",
    after="v2 as int8",
    figures=(
        Figure("accuracy", "", 0.9123, 0.9101),
        Figure("latency p50", "ms", 0.51, 0.23),
        Figure("latency p99", "ms", 1.2, 0.7),
        Figure("size", "MB", 12.5, None),
        Figure("cost", "core-hours per million rows", 0.021, 0.009),
    ),
    lost=("accuracy [age=young]: 0.9000 -> 0.8900", "auc [age=old]: 0.9500 -> 0.9400, missed its limit"),
    parameters=(Parameter("depth", "6", "8"), Parameter("<b>max_bins</b>", "", "255" * 30)),
    more=3,
)


def test_a_release_says_what_it_changes(rita: Visitor, server: ApiServer, world: World) -> None:
    release = under_way(world)
    world.releases.built(release.id, "b" * 24, at=release.request.at, compared=FOUND)
    rita.page.goto(f"/slipway/releases/{release.id}")
    section = rita.page.get_by_role("region", name="What changes")
    section.get_by_text("5 parameters of the training changed").click()
    words = section.inner_text()
    for said in (
        "0.9123",
        "-0.0022",
        "-55 %",
        "2 slices answered worse",
        "<b>max_bins</b>: not set",
        "and 3 more",
    ):
        assert said in words, said
    rita.page.set_viewport_size({"width": 380, "height": 900})
    assert rita.page.evaluate("document.documentElement.scrollWidth") <= 380
    answer = server.of("rita").get(f"{API}/releases/{release.id}").json()["comparison"]
    assert answer["figures"][1] == {"name": "latency p50", "unit": "ms", "before": 0.51, "after": 0.23}
    assert answer["parameters"][0] == {"name": "depth", "before": "6", "after": "8"}


def test_a_release_from_before_there_were_comparisons_has_none(
    rita: Visitor,
    server: ApiServer,
    world: World,
) -> None:
    release = under_way(world)
    rita.page.goto(f"/slipway/releases/{release.id}")
    assert rita.page.get_by_role("region", name="What changes").count() == 0
    assert server.of("rita").get(f"{API}/releases/{release.id}").json()["comparison"] is None


def test_what_the_reader_opened_stays_open_when_something_appears_above_it(
    rita: Visitor, world: World
) -> None:
    release = under_way(world)
    world.releases.built(release.id, "b" * 24, at=release.request.at, compared=FOUND)
    rita.page.goto(f"/slipway/releases/{release.id}")
    rita.page.get_by_text("5 parameters of the training changed").click()
    freeze_enforcement.freezes_of(world.services).add(
        MODEL, by="ada", reason="audit", until=None, at=wiring.now()
    )
    freeze_enforcement.enforce(world.services, world.journal.load(release.id), release)
    expect(rita.page.locator("#live")).to_contain_text("frozen until somebody lifts it", ignore_case=True)
    expect(rita.page.locator("#parameters-changed")).to_have_attribute("open", "")


def test_times_are_told_in_the_readers_zone_and_name_it(rita: Visitor, world: World) -> None:
    release = under_way(world)
    rita.page.goto(f"/slipway/releases/{release.id}")
    expect(rita.page.locator("time[data-exact]").first).to_have_text(re.compile(r"(GMT\+[12]|CES?T)$"))

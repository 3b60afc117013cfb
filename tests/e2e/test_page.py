"""The Releases page on the real stack, in a real browser: log in, release, approve, watch, roll back.

The tests tell one story in order; each starts from what the one before left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.client import Users, asking
from tests.e2e.stack import Stack
from tests.tools import CHROMIUM, needs

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.at_length,
    pytest.mark.story,
    pytest.mark.timeout(900),
    needs(CHROMIUM),
]

MODEL = "offers"
PATIENCE_MS = 180_000
WITH_HTML = "<img src=x onerror=alert(1)> & <b>better</b> recall"


@dataclass
class Visitor:
    """Somebody in front of the page. `trouble`: what the browser's console complained about."""

    page: Page
    stack: Stack
    trouble: list[str]

    def open(self, path: str) -> None:
        self.page.goto(f"{self.stack.airflow_url}{path}")

    def say_why(self, button: str, reason: str, confirm: str | None = None) -> None:
        """Press a button, give the reason it asks for, and wait until it is carried out."""
        self.page.get_by_role("button", name=button, exact=True).first.click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_label("Reason").fill(reason)
        dialog.get_by_role("button", name=confirm or button).click()
        expect(dialog).to_be_hidden(timeout=30_000)

    def release(self, version: int, reason: str) -> None:
        self.open(f"/slipway/new?model={MODEL}")
        self.page.get_by_label("Version").fill(str(version))
        self.page.get_by_role("button", name="Preview what will run").click()
        expect(self.page.locator("#preview")).to_contain_text(f"Release {MODEL} v{version}")
        self.page.locator("main").get_by_label("Reason").fill(reason)
        self.page.get_by_role("button", name="Release", exact=True).click()
        self.page.wait_for_url(f"**/slipway/releases/{MODEL}-v{version}-*")

    def see(self, words: str | re.Pattern[str], *, within: str = "main") -> None:
        expect(self.page.locator(within)).to_contain_text(words, timeout=PATIENCE_MS)

    def axe_finds_nothing(self) -> None:
        found = Axe().run(self.page)
        assert found.violations_count == 0, found.generate_report()


@pytest.fixture(scope="module")
def offers(stack: Stack, trained: str) -> Iterator[Stack]:
    """Two equal versions in the registry, and users, so that verdicts have something to judge."""
    stack.registry.copy(trained, MODEL, count=2)
    stack.wait_for_dag(f"release_{MODEL}")
    with asking(Users(stack.infer_url(MODEL), stack.rows())):
        yield stack


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM.path(),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visitor(offers: Stack, chromium: Browser) -> Iterator[Visitor]:
    """Signed in by Airflow's own form, sent there and back by the page."""
    page = chromium.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(30_000)
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda said: trouble.append(said.text) if "Content Security" in said.text else None)
    someone = Visitor(page, offers, trouble)
    someone.open("/slipway/")
    page.locator("input[type=password]").wait_for()
    page.locator("input:not([type=password])").first.fill(offers.login["user"])
    page.locator("input[type=password]").fill(offers.login["password"])
    page.keyboard.press("Enter")
    page.wait_for_url("**/slipway/")
    yield someone
    page.close()


def test_the_page_is_in_airflows_navigation(visitor: Visitor) -> None:
    visitor.open("/")
    visitor.page.get_by_role("link", name="Releases").click()
    frame = visitor.page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="Models", exact=True)).to_be_visible()
    # Nothing of it has been released yet, so it stands among those of which nothing has.
    frame.locator("#unreleased").evaluate("it => { it.open = true }")
    expect(frame.get_by_role("link", name=MODEL, exact=True)).to_be_visible()


def test_a_version_is_released_approved_and_served(visitor: Visitor) -> None:
    visitor.release(1, WITH_HTML)
    visitor.see("Waiting for approval")
    visitor.see(WITH_HTML)
    visitor.see("fp32 × onnxruntime")
    visitor.axe_finds_nothing()
    visitor.say_why("Approve", "the first version is good enough")
    visitor.see("Watching")
    visitor.see("the first version is good enough")
    assert visitor.trouble == []


def test_one_watches_the_split_move_without_reloading(visitor: Visitor) -> None:
    visitor.release(2, "weekly retraining")
    visitor.see("Waiting for approval")
    visitor.page.evaluate("window.notReloaded = true")
    visitor.say_why("Approve", "accuracy as before")
    visitor.see(re.compile(r"v1 75 %\s*v2 25 %"))
    visitor.say_why("Pause", "look at the first requests")
    visitor.see("Paused")
    visitor.say_why("Resume", "they are fine")
    visitor.say_why("Skip hold", "no need to wait out the rest")
    visitor.see(re.compile(r"v2 100 %"))
    visitor.see("Watching")
    visitor.see("Both arms over time")
    assert visitor.page.evaluate("window.notReloaded") is True
    visitor.axe_finds_nothing()


def test_a_rollback_takes_a_reason_and_is_in_the_history(visitor: Visitor) -> None:
    visitor.open(f"/slipway/models/{MODEL}")
    visitor.say_why("Roll back", "=HYPERLINK(0) users complain")
    visitor.see(re.compile(r"v1\s+100 %"))
    visitor.see("Rolled back")
    visitor.open(f"/slipway/history?model={MODEL}&action=rollback")
    visitor.see("=HYPERLINK(0) users complain")
    visitor.see(visitor.stack.login["user"])
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("link", name="CSV").click()
    assert '"\'=HYPERLINK(0) users complain"' in download.value.path().read_text()


def test_one_may_ask_what_served_a_moment_ago(visitor: Visitor) -> None:
    visitor.open("/slipway/history")
    now = visitor.page.evaluate(
        "new Date(Date.now() - new Date().getTimezoneOffset() * 60000).toISOString().slice(0, 19)"
    )
    visitor.page.get_by_role("textbox", name="Moment").fill(now)
    visitor.page.get_by_role("button", name="Show").click()
    visitor.see(re.compile(rf"{MODEL}\s*v1 100 %"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["", f"models/{MODEL}", "releases", "history", "new", "freezes-page"])
def test_every_page_passes_axe_and_fits_a_phone(visitor: Visitor, path: str, scheme: str) -> None:
    visitor.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    visitor.page.set_viewport_size({"width": 390, "height": 844})
    visitor.open(f"/slipway/{path}")
    visitor.axe_finds_nothing()
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert visitor.trouble == []


def test_everything_is_reached_by_keyboard_alone(visitor: Visitor) -> None:
    visitor.page.set_viewport_size({"width": 1440, "height": 900})
    visitor.open(f"/slipway/models/{MODEL}")
    keyboard = visitor.page.keyboard
    keyboard.press("Tab")
    expect(visitor.page.get_by_role("link", name="Skip to content")).to_be_focused()
    freeze = visitor.page.get_by_role("button", name="Freeze")
    for _ in range(30):
        keyboard.press("Tab")
        if freeze.evaluate("it => it === document.activeElement"):
            break
    keyboard.press("Enter")
    dialog = visitor.page.get_by_role("dialog")
    expect(dialog.get_by_label("Reason")).to_be_focused()
    keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(freeze).to_be_focused()

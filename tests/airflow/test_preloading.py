"""Who opens a page just after Airflow's API server started does not wait for ten thousand files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from slipway_airflow import page
from slipway_airflow.page import LazyApp

from serving import composition
from serving.web import app, read_api
from tests.airflow.desk import under_way
from tests.airflow.world import World


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def fresh(world: World, in_database: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Frozen, the objects of other tests would stay for ever.
    monkeypatch.setattr(app.gc, "freeze", lambda: None)
    read_api.reset()
    yield
    read_api.reset()


async def start(pages: LazyApp) -> list[str]:
    """As a server does; returns what was passed on."""
    seen: list[str] = []

    async def airflow(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    middleware = page.PreparePages(airflow, pages=pages)
    for kind in ("lifespan", "http"):
        await middleware({"type": kind}, None, None)  # type: ignore[arg-type]
    return seen


async def test_pages_are_made_ready_when_the_server_starts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = under_way(world)
    monkeypatch.setenv(page.SWITCH, "1")
    pages = LazyApp()
    assert await start(pages) == ["lifespan", "http"]
    until(read_api.is_made)
    assert pages._app is not None
    assert read_api.whole_catalog(pages.app.state.host.runs).release(release.id).row.id == release.id


async def test_without_the_switch_nothing_is_read_unasked(world: World) -> None:
    pages = LazyApp()
    assert await start(pages) == ["lifespan", "http"]
    assert pages._app is None
    assert not read_api.is_made()


async def test_a_server_starts_though_its_pages_cannot_be_made_ready(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(home: Any = None) -> Any:
        raise OSError("the disk is gone")

    monkeypatch.setenv(page.SWITCH, "1")
    monkeypatch.setattr(composition, "wire", broken)
    assert await start(LazyApp()) == ["lifespan", "http"]
    until(lambda: "the first request will take longer" in caplog.text)

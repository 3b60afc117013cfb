"""The server as an object with a start and a stop."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_store.errors import Permanent
from serving import controller
from serving.gateway.bootstrap import prepare
from serving.gateway.delivery.ads import records, server
from serving.gateway.delivery.ads.server import AdsServer
from serving.gateway.delivery.ads.state import State
from serving.home import Home, Ports
from tests.unit.serving.gateway_process import ads_running, free_ports


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (port,) = free_ports(1)
    home = Home(tmp_path, Ports(ads=port), "ads")
    prepare(home)
    return home


def test_a_port_that_is_taken_is_said_at_once(home: Home) -> None:
    with ads_running(home), pytest.raises(Permanent, match="cannot be served at") as refused:
        AdsServer(home, listen=f"127.0.0.1:{home.ports.ads}", token="t").start()
    assert "SLIPWAY_ADS_LISTEN" in refused.value.remedy


def test_many_services_that_take_long_to_read_keep_nobody_from_starting(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(self: records.Records, changed: object = None) -> State | None:
        time.sleep(2)
        return None

    monkeypatch.setattr(records.Records, "read", slow)
    monkeypatch.setattr(server, "_START_SECONDS", 1.0)
    made = AdsServer(home, listen=f"127.0.0.1:{home.ports.ads}", token="t")
    made.start()
    monkeypatch.setattr(server, "_START_SECONDS", 10.0)
    made.stop()


def test_stopped_twice_or_never_started_it_is_no_trouble(home: Home) -> None:
    with ads_running(home) as running:
        running.stop()
    AdsServer(home, listen="127.0.0.1:1", token="t").stop()


def test_one_that_ends_after_its_start_says_so_where_the_controller_is_asked_how_it_is(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(self: records.Records, changed: object = None) -> State | None:
        raise KeyError("a kind that nobody knows")

    watching: Any = SimpleNamespace(
        pending={}, done=SimpleNamespace(ticks=1, last_tick_at=time.monotonic() + 60)
    )
    made = AdsServer(home, listen=f"127.0.0.1:{home.ports.ads}", token="t")
    assert controller._problem(watching, made) == ""
    monkeypatch.setattr(records.Records, "read", torn)
    made.start()
    made._thread.join(10)
    assert "told nothing" in controller._problem(watching, made)
    assert "a kind that nobody knows" in made.problem

"""`slipway proxies`: who has what, for people and for machines."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from serving.cli import gateway
from serving.gateway.delivery.ads import proxies_file
from serving.gateway.delivery.base import Proxy, ProxyState
from serving.home import Home, Ports

AT = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path, Ports(), "ads")
    proxies_file.write(
        home,
        [
            Proxy("a", ProxyState.SYNCED, AT, version="3b2e", revisions={"m": 7}, admin="127.0.0.1:1"),
            Proxy("b", ProxyState.NACK, AT, "Invalid duration", "67c7", {"m": 6}),
        ],
    )
    return home


def test_people_see_each_envoys_state_and_what_it_refuses(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.proxies(home, as_json=False)
    told = capsys.readouterr().out
    assert all(word in told for word in ("SYNCED", "NACK", "Invalid duration", "3b2e"))


def test_machines_get_all_of_it(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.proxies(home, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["delivery"] == "ads"
    assert [(each["id"], each["state"], each["revisions"]) for each in told["proxies"]] == [
        ("a", "SYNCED", {"m": 7}),
        ("b", "NACK", {"m": 6}),
    ]


def test_without_any_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.proxies(Home(tmp_path, Ports(), "ads"), as_json=False)
    assert "No Envoy is there." in capsys.readouterr().out


def test_of_a_server_that_has_ended_nobody_is_called_in_step(home: Home) -> None:
    path = proxies_file.path(home)
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "pid": 2**22 + 1}))
    assert {each.state for each in proxies_file.read(home)} == {ProxyState.STALE}
    assert proxies_file.read(home)[0].revisions == {"m": 7}

"""`slipway proxies`: who has what, for people and for machines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from model_store.installation import ROOT
from serving.cli import access
from serving.gateway.delivery.ads import proxies_file
from serving.gateway.delivery.base import Proxy, ProxyState
from serving.home import Home, Ports

AT = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path, Ports(), "ads")
    proxies_file.write(
        home,
        [
            Proxy("a", ProxyState.SYNCED, AT, version="3b2e", revisions={"m": 7}, admin="127.0.0.1:1"),
            Proxy("b", ProxyState.NACK, AT, "Invalid duration", "67c7", {"m": 6}),
        ],
    )
    with proxies_file.served(home):
        yield home


def test_people_see_each_envoys_state_and_what_it_refuses(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    access.proxies(home, as_json=False)
    told = capsys.readouterr().out
    assert all(word in told for word in ("SYNCED", "NACK", "Invalid duration", "3b2e"))


def test_machines_get_all_of_it(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    access.proxies(home, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["delivery"] == "ads"
    assert [(each["id"], each["state"], each["revisions"]) for each in told["proxies"]] == [
        ("a", "SYNCED", {"m": 7}),
        ("b", "NACK", {"m": 6}),
    ]


def test_without_any_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    access.proxies(Home(tmp_path, Ports(), "ads"), as_json=False)
    assert "No Envoy is there." in capsys.readouterr().out


def test_of_a_server_that_has_ended_nobody_is_called_in_step(tmp_path: Path) -> None:
    home = Home(tmp_path, Ports(), "ads")
    serve = (
        "import sys, time\nfrom datetime import UTC, datetime\nfrom pathlib import Path\n"
        "from serving.gateway.delivery.ads import proxies_file\n"
        "from serving.gateway.delivery.base import Proxy, ProxyState\nfrom serving.home import Home, Ports\n"
        "home = Home(Path(sys.argv[1]), Ports(), 'ads')\n"
        "with proxies_file.served(home):\n"
        "    a = Proxy('a', ProxyState.SYNCED, datetime.now(UTC), revisions={'m': 7})\n"
        "    proxies_file.write(home, [a])\n"
        "    print('told', flush=True)\n    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", serve, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        assert [each.state for each in proxies_file.read(home)] == [ProxyState.SYNCED]
        server.kill()
    (left,) = proxies_file.read(home)
    assert (left.state, left.revisions) == (ProxyState.STALE, {"m": 7})

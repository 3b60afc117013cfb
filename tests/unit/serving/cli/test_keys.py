"""`slipway keys`: a key is shown once, and the gateway is told in the same breath."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.cli.app import app
from serving.gateway import authentication
from serving.home import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    return Home.locate()


def keys(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["keys", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_key_is_made_listed_and_ended(home: Home) -> None:
    key = keys("add", "shop", "--rate", "20", "--burst", "40").strip()
    assert key in authentication.keys_file(home).read_text()
    assert '"shop"' in authentication.rates_file(home).read_text()
    newer = json.loads(keys("add", "shop", "--json"))["key"]
    listed = keys("list")
    assert "20 a second, 40 at once" in listed
    assert key not in listed
    assert json.loads(keys("list", "--json")) == [
        {"client": "shop", "keys": 2, "per_second": 20.0, "burst": 40}
    ]
    assert "1 key of shop removed" in keys("remove", "shop", "--older")
    told = authentication.keys_file(home).read_text()
    assert (key in told, newer in told) == (False, True)
    keys("remove", "shop")
    assert newer not in authentication.keys_file(home).read_text()


def test_a_file_of_an_earlier_slipway_is_refused_in_words(home: Home) -> None:
    home.api_keys.write_text(json.dumps({"clients": [{"name": "shop", "sha256": "ab" * 32}]}))
    result = CliRunner().invoke(app, ["keys", "add", "shop"])
    assert result.exit_code == 1
    assert "only the digest of a key" in " ".join(result.stderr.split())
    assert "slipway keys add" in result.stderr

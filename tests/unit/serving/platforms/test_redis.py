"""Which server keeps the shared cache: the package's, else the machine's own, else a way to get one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from model_store.errors import Permanent
from serving.platforms.redis import server


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.platforms.redis.find_spec", lambda name: None)


def test_the_installed_requirements_bring_a_server_that_runs() -> None:
    said = subprocess.run([server(), "--version"], check=True, capture_output=True, text=True).stdout
    assert "Server v=" in said or "server v=" in said


@pytest.mark.usefixtures("no_package")
@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_without_the_package_the_machines_own_serves(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / name
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert server() == str(own)


@pytest.mark.usefixtures("no_package")
def test_with_neither_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Permanent) as refused:
        server()
    assert "SLIPWAY_REDIS" in refused.value.remedy

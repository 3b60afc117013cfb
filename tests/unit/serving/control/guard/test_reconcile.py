"""What the guard derives again every ten seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.gateway.bootstrap import prepare, routes_file
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.guard import _reconcile
from serving.home import Home, Ports
from serving.types import ALL_STABLE
from tests.contract.router_contract import BLUE
from tests.unit.serving.world import World


def test_a_torn_route_is_counted_and_the_others_are_derived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = Home(tmp_path, Ports())
    prepare(home)
    router, guard = EnvoyFileRouter(home), World().guard
    for service in ("a", "b", "c"):
        router.write(service, ALL_STABLE, stable=BLUE, candidate=None, at=0)
    router.file("b").write_bytes(b"{ torn")
    routes_file(home).write_text("{}")
    _reconcile(guard, router)
    assert guard.done.errors == 1
    assert "b: the guard could not finish its look" in caplog.text
    assert all(f"/v2/models/{service}" in routes_file(home).read_text() for service in ("a", "c"))


def test_a_folder_that_cannot_be_listed_does_not_end_the_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router, guard = EnvoyFileRouter(Home(tmp_path, Ports())), World().guard

    def unlisted(_: Path, __: str) -> None:
        raise OSError("Too many open files")

    monkeypatch.setattr(Path, "glob", unlisted)
    _reconcile(guard, router)
    assert guard.done.errors == 2

"""What the controller derives again every ten seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.controller import _reconcile
from serving.gateway.bootstrap import prepare
from serving.gateway.paths import routes_file
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.home import Home, Ports
from serving.types import ALL_STABLE
from tests.contract.router_contract import BLUE
from tests.unit.serving.world import World


def test_a_torn_route_is_counted_and_the_others_are_derived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = Home(tmp_path, Ports())
    prepare(home)
    router, controller = EnvoyFileRouter(home), World().controller
    for service in ("a", "b", "c"):
        router.write(service, ALL_STABLE, stable=BLUE, candidate=None, at=0)
    router.file("b").write_bytes(b"{ torn")
    routes_file(home).write_text("{}")
    _reconcile(controller, router)
    assert controller.done.errors == 1
    assert "b: the controller could not finish its look" in caplog.text
    assert all(f"/v2/models/{service}" in routes_file(home).read_text() for service in ("a", "c"))


def test_a_folder_that_cannot_be_listed_does_not_end_the_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router, controller = EnvoyFileRouter(Home(tmp_path, Ports())), World().controller

    def unlisted(_: Path, __: str) -> None:
        raise OSError("Too many open files")

    monkeypatch.setattr(Path, "glob", unlisted)
    _reconcile(controller, router)
    assert controller.done.errors == 2

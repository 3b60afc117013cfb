"""An older ledger beside newer traffic, and who may act: over the controller's port, as `./slipway` asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from model_store.errors import Retryable
from serving import composition
from serving.cli.app import app
from serving.control.client import ControllerClient
from serving.control.controller import api
from serving.control.controller.leadership import Leadership
from serving.control.controller.server import ControllerServer
from serving.control.rollout.control import ControlRequest
from serving.control.wiring import now
from serving.credentials import controller_token
from serving.gateway.router.base import DifferentRoute
from serving.gateway.router.kept import LedgerRouter, row_of
from serving.home import Home, Ports
from serving.ledger.memory import MemoryLedger
from serving.ledger.rows import AuditRow, RouteRow
from serving.types import ALL_STABLE, TrafficSplit
from tests.contract.router_contract import BLUE, GREEN
from tests.unit.serving.gateway_process import free_ports

HALF = TrafficSplit(50, 50)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    made = Home(tmp_path, replace(Ports(), controller=free_ports(1)[0]))
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.setenv("SLIPWAY_PORT_CONTROLLER", str(made.ports.controller))
    return made


@contextmanager
def controller_on(
    home: Home, ledger: MemoryLedger, leader: Leadership | None = None
) -> Iterator[LedgerRouter]:
    """Its port on this ledger, without its looks."""
    require_last = leader.require_last if leader else lambda: None
    services, acts = composition.wire_controller(home, ledger, require_last=require_last)
    router = services.router
    nobody: Any = None
    assert isinstance(router, LedgerRouter)
    built = api.build(
        nobody,
        acts,
        ledger,
        router,
        token=controller_token(home),
        find_problem=lambda: "",
        is_alive=lambda: True,
        targets=list,
        require_last=require_last,
    )
    server = ControllerServer(built, home.ports.controller).start()
    try:
        yield router
    finally:
        server.shutdown()


def test_the_command_that_the_refusal_names_takes_what_runs_and_leaves_an_entry(home: Home) -> None:
    older = MemoryLedger()
    newer = LedgerRouter(MemoryLedger(), composition.told_of(home))
    newer.write("m", ALL_STABLE, stable=BLUE, candidate=None, at=0)
    older.save(row_of(newer.read("m"), at=now()))
    # More steps than one look writes down at once.
    for at in range(1, 40):
        newer.write("m", HALF if at % 2 else ALL_STABLE, stable=BLUE, candidate=GREEN, at=at)
    with controller_on(home, older) as router:
        with pytest.raises(DifferentRoute) as refused:
            router.read("m")
        command = refused.value.remedy.partition("`./slipway ")[2].partition("`")[0]
        done = CliRunner().invoke(app, command.replace("WHY", "restored").split())
        assert done.exit_code == 0, done.output + done.stderr
        assert "50 % to version 2" in done.stdout
        assert (router.read("m").split, router.read("m").revision) == (HALF, 40)
    assert composition.told_of(home).read("m").split == older_split(older) == HALF
    (entry,) = older.find(AuditRow)
    assert (entry.action, entry.model, entry.reason) == ("adopt", "m", "restored")
    assert entry.who.endswith("on the command line")


def older_split(ledger: MemoryLedger) -> TrafficSplit:
    weight = ledger.get(RouteRow, "m").candidate_weight
    return TrafficSplit(100 - weight, weight)


def test_a_standby_begins_no_act_and_names_who_does(home: Home) -> None:
    ledger, client = MemoryLedger(), ControllerClient(home)
    first, second = (Leadership(ledger, name, monotonic=lambda: 0.0) for name in ("host-a", "host-b"))
    first.look()
    second.look()
    with controller_on(home, ledger, second):
        for act in (
            lambda: client.begin("m-v2-20261121T120000Z", "b2"),
            lambda: client.progress(["m-v2-20261121T120000Z"]),
            lambda: client.pause("m-v2-20261121T120000Z", ControlRequest("ann", "why")),
            lambda: client.adopt("m", by="ann", reason="why"),
        ):
            with pytest.raises(Retryable, match="host-a has the lease"):
                act()

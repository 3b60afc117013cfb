"""The controller's port in a test: health, metrics and targets, and nobody who acts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving.control.controller import api
from serving.control.controller.server import ControllerServer
from serving.control.controller.tick import Controller
from serving.ledger.memory import MemoryLedger


def serve(
    controller: Controller,
    port: int,
    *,
    find_problem: Callable[[], str],
    targets: Callable[[], object] = list,
) -> ControllerServer:
    """Answers until it is shut down."""
    nobody: Any = None
    app = api.build(
        controller,
        nobody,
        MemoryLedger(),
        nobody,
        token="t",
        find_problem=find_problem,
        is_alive=lambda: True,
        targets=targets,
    )
    return ControllerServer(app, port).start()

"""How much of a body Airflow's API server reads for whom: its endpoints parse before they ask who it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.web import bodies

if TYPE_CHECKING:
    from starlette.types import Scope

# Tasks hand on results; people send a run's configuration, variables and connections; a login is short.
TASKS_BYTES, PEOPLES_BYTES, ANYBODYS_BYTES = 16 * 1024 * 1024, 4 * 1024 * 1024, 64 * 1024


def limit(scope: Scope) -> int | None:
    """For `BoundedBodies`, of Airflow's root app."""
    path: str = scope["path"]
    if path.startswith("/slipway/"):
        return bodies.of_ours(scope)
    if bodies.is_anonymous(scope):
        return ANYBODYS_BYTES
    return TASKS_BYTES if path.startswith("/execution/") else PEOPLES_BYTES

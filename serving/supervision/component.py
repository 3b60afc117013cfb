"""What is kept running: one process, as it is started and ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

# supervisord starts a dying program again and again; after this long it will not come up by itself.
START_SECONDS = 300


def nothing() -> None:
    """For components that need no preparation."""


@dataclass(frozen=True, slots=True)
class Component:
    """One long-running process. `prepare` runs in the new process, before it becomes `argv`.

    `stop_seconds` is how long it may take after SIGTERM; then it is killed. A positive `niceness` lets
    others use the processor first. `secrets`: variables of the stack's environment that are for it and not
    for the others.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = nothing
    stop_seconds: int = 10
    niceness: int = 0
    secrets: tuple[str, ...] = ()

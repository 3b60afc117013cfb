"""The traffic port: read a route, write a split. It never touches pods."""

from __future__ import annotations

from typing import Protocol

from model_store.errors import Retryable
from serving.types import Deployment, Route, RouteSettings, TrafficSplit


class StaleRoute(Retryable):
    """Somebody else wrote the route first. Read it again and decide again."""


class TrafficRouter(Protocol):
    """Every write is compare-and-swap on `at`, so a rollback always beats a slower promotion.

    Implementations pass `tests/contract/router_contract.py`.
    """

    def services(self) -> list[str]:
        """Names of all services that have a route, sorted."""
        ...

    def read(self, service: str) -> Route:
        """The current route. Raises `Permanent` (UnknownService) listing what exists."""
        ...

    def write(
        self,
        service: str,
        split: TrafficSplit,
        *,
        stable: Deployment | None,
        candidate: Deployment | None,
        at: int,
        settings: RouteSettings | None = None,
    ) -> Route:
        """Atomically replace arms and split. `at` is the revision the caller decided on (0: no route yet).

        `settings` None keeps what the route has (defaults for a new one).

        Raises `StaleRoute` when the route has moved on.
        """
        ...

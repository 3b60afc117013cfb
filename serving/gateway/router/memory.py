"""A router that only remembers, for simulations and tests of what is above it."""

from __future__ import annotations

from threading import Lock

from serving.gateway.router.base import StaleRoute, UnknownService
from serving.types import ALL_STABLE, Deployment, Route, RouteSettings, TrafficSplit


class MemoryRouter:
    """`TrafficRouter` in this process."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._lock = Lock()

    def services(self) -> list[str]:
        return sorted(self._routes)

    def read(self, service: str) -> Route:
        try:
            return self._routes[service]
        except KeyError:
            raise UnknownService(service, known=self.services()) from None

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
        with self._lock:
            before = self._routes.get(service, Route(service, 0, ALL_STABLE, None, None))
            if before.revision != at:
                raise StaleRoute.of(service, decided_on=at, now=before.revision)
            after = Route(service, at + 1, split, stable, candidate, settings or before.settings)
            self._routes[service] = after.placed_as_in(before)
            return self._routes[service]

    def put(self, route: Route) -> Route:
        with self._lock:
            before = self._routes.get(route.service)
            if before is None or before.revision < route.revision:
                self._routes[route.service] = route.placed_as_in(before) if before else route
            return self._routes[route.service]

    def move(self, deployment: Deployment) -> Route:
        with self._lock:
            moved = self.read(deployment.service).moved(deployment)
            self._routes[deployment.service] = moved
            return moved

    def unacknowledged(self, route: Route) -> tuple[str, ...]:
        """There is no proxy."""
        return ()

    def reconcile(self) -> None:
        """Nothing follows from these routes."""

"""Routes for processes that move no traffic: asked of the controller, which does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NoReturn
from urllib.parse import quote

from model_store.errors import Permanent, Retryable
from serving.control.controller_link import ControllerLink
from serving.gateway.router.base import UnknownService
from serving.home import Home
from serving.types import Deployment, Route, RouteSettings, TrafficSplit

# How old what the pages show may be.
KEPT_SECONDS = 0.2


class RoutesClient:
    """The reading half of `serving.gateway.router.base.TrafficRouter` over HTTP. Opens nothing before it is
    asked, and writes nothing."""

    def __init__(self, home: Home) -> None:
        self._ask = ControllerLink(home).ask

    def services(self) -> list[str]:
        return sorted(self._ask("GET", "/v1/routes")["routes"])

    def read(self, service: str) -> Route:
        return Route.from_json(self._ask("GET", f"/v1/routes/{quote(service, safe='')}"))

    def all(self, known: str) -> tuple[str, dict[str, Route] | None]:
        """Every route, and what names this state of them; None where it is the `known` one."""
        told = self._ask("GET", f"/v1/routes?known={quote(known, safe='')}")
        routes = told.get("routes")
        if routes is None:
            return told["state"], None
        return told["state"], {name: Route.from_json(one) for name, one in routes.items()}

    def unacknowledged(self, route: Route) -> tuple[str, ...]:
        _refuse()

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
        _refuse()

    def put(self, route: Route) -> Route:
        _refuse()

    def move(self, deployment: Deployment) -> Route:
        _refuse()

    def reconcile(self) -> None:
        _refuse()


class KeptRoutes(RoutesClient):
    """The same for the pages, which ask for all of them again and again: asked for as one, and kept a
    moment. While the controller does not answer, what was known last is shown."""

    def __init__(self, home: Home, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(home)
        self._monotonic = monotonic
        self._looked, self._state = float("-inf"), ""
        self._routes: dict[str, Route] = {}

    def services(self) -> list[str]:
        return sorted(self._known())

    def read(self, service: str) -> Route:
        known = self._known()
        if service not in known:
            raise UnknownService(service, known=sorted(known))
        return known[service]

    def _known(self) -> dict[str, Route]:
        now = self._monotonic()
        if not 0 <= now - self._looked < KEPT_SECONDS:
            try:
                self._state, routes = self.all(self._state)
            except Retryable:
                if not self._state:
                    raise
            else:
                # A route that is the same stays the same object, of which things were made.
                self._routes = self._routes if routes is None else self._merged(routes)
            self._looked = now
        return self._routes

    def _merged(self, routes: dict[str, Route]) -> dict[str, Route]:
        return {
            name: self._routes[name] if self._routes.get(name) == route else route
            for name, route in routes.items()
        }


def _refuse() -> NoReturn:
    raise Permanent("traffic is moved by the controller alone", remedy="ask it (serving.control.traffic)")

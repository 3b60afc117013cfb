"""The router that Envoy follows: one endpoint file per service, which is also the route's record.

`<home>/envoy/routes/<service>/endpoints.json` is written first and is the truth; the cluster and route files
are derived from all records, and `reconcile` makes them again if a crash came between.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from model_store.durable import write_file
from model_store.errors import Permanent
from model_store.spec import MODEL_NAME
from serving.gateway import clusters, endpoints, routes
from serving.gateway.bootstrap import clusters_file, routes_file
from serving.gateway.watches import require_spare
from serving.home import Home
from serving.router.base import StaleRoute, UnknownService
from serving.router.history import RouteHistory
from serving.types import Deployment, Route, RouteSettings, TrafficSplit

_FILE = "endpoints.json"


class EnvoyFileRouter:
    """`TrafficRouter` over Envoy's files. Writers on one machine exclude each other with `flock`.

    Every write leaves a line in the routes' history, at the time that `now` tells.
    """

    def __init__(self, home: Home, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._home = home
        self._now = now
        self._history = RouteHistory(home.route_history)
        self._routes = str(home.routes)
        self._read: dict[str, tuple[tuple[int, int, int], Route]] = {}

    def services(self) -> list[str]:
        return sorted(path.parent.name for path in self._home.routes.glob(f"*/{_FILE}"))

    def read(self, service: str) -> Route:
        # Every write is another file, so what was parsed once is good while the file is the same.
        try:
            stat = os.stat(f"{self._routes}/{service}/{_FILE}")  # noqa: PTH116 - Path is too slow here
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            known = self._read.get(service)
            if known is None or known[0] != stamp:
                known = self._read[service] = stamp, endpoints.parse(self.file(service).read_bytes())
        except FileNotFoundError:
            raise UnknownService(service, known=self.services()) from None
        return known[1]

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
        _require_safe(service)
        with self._locked(service):
            before = self._current(service)
            if before.revision != at:
                raise StaleRoute.of(service, decided_on=at, now=before.revision)
            after = Route(service, at + 1, split, stable, candidate, settings or before.settings)
            if before.revision == 0:
                require_spare()
            write_file(self.file(service), endpoints.render(after))
            self._history.append(after, at=self._now())
        if before.revision == 0 or _shape(before) != _shape(after):
            self.reconcile()
        return after

    def reconcile(self) -> None:
        """Derive clusters and routes from the records; writes only what changed, clusters first."""
        with self._exclusive(self._home.envoy / "derived.lock"):
            known = [self.read(service) for service in self.services()]
            files = {route.service: self.file(route.service) for route in known}
            _write_if_changed(clusters_file(self._home), clusters.render(known, endpoint_file=files))
            _write_if_changed(routes_file(self._home), routes.render(known))

    def file(self, service: str) -> Path:
        """The endpoint file of `service`."""
        return self._home.routes / service / _FILE

    def _current(self, service: str) -> Route:
        if self.file(service).exists():
            return endpoints.parse(self.file(service).read_bytes())
        return Route(service, 0, TrafficSplit(stable=100, candidate=0), None, None)

    @contextmanager
    def _locked(self, service: str) -> Iterator[None]:
        with self._exclusive(self._home.routes / service / "lock"):
            yield

    @contextmanager
    def _exclusive(self, path: Path) -> Iterator[None]:
        # The kernel frees the lock when its holder dies, so a crash leaves nothing to clean up.
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _shape(route: Route) -> tuple[object, ...]:
    """What the cluster and route files say about a route."""
    return route.stable, route.candidate, route.split.mirrored, route.settings


def _require_safe(service: str) -> None:
    if not MODEL_NAME.fullmatch(service) or ".." in service or service.endswith(clusters.RESERVED_SUFFIXES):
        endings = ", ".join(clusters.RESERVED_SUFFIXES)
        raise Permanent(
            f"{service!r} cannot be the name of a service",
            remedy=f"use letters, digits, '_', '-', '.', and end it with none of {endings}",
        )


def _write_if_changed(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        write_file(path, content)

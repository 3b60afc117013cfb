"""What Envoy is told of routes: one endpoint file per service, which says which route it was made of.

`<home>/envoy/routes/<service>/endpoints.json` is written first. The endpoints of an arm alone, the clusters
and the route table are derived from these, and `reconcile` makes them again if a crash came between. What was
decided is in the ledger (`serving.gateway.router.kept`); without it traffic can still be returned here.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from model_store.durable import take_place, write_file
from model_store.errors import Permanent
from model_store.release_spec import MODEL_NAME
from serving.envoy_names import RESERVED_SUFFIXES
from serving.gateway import endpoints
from serving.gateway.delivery.base import Delivery
from serving.gateway.delivery.choice import delivery_of
from serving.gateway.router.base import StaleRoute, UnknownService, UnreadableRoute
from serving.gateway.router.derived import derive
from serving.home import Home
from serving.types import ALL_STABLE, Deployment, Route, RouteSettings, TrafficSplit

_FILE = "endpoints.json"
_WAY_BACK = "all-stable.json"

log = logging.getLogger(__name__)


class EnvoyFileRouter:
    """`TrafficRouter` over Envoy's files. Writers on one machine exclude each other with `flock`."""

    def __init__(self, home: Home, *, delivery: Delivery | None = None) -> None:
        self._home = home
        self._delivery = delivery or delivery_of(home)
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
                known = self._read[service] = stamp, _parse(self.file(service), service)
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
            after = after.placed_as_in(before)
            self._delivery.require_room(before, after)
            after = self._put(before, after)
        if before.revision == 0 or _shape(before) != _shape(after):
            self._follow(arms_of=[service])
        return after

    def put(self, route: Route) -> Route:
        _require_safe(route.service)
        with self._locked(route.service):
            before = self._current(route.service)
            if before.revision >= route.revision:
                return before
            after = route.placed_as_in(before)
            self._delivery.require_room(before, after)
            after = self._put(before, after)
        if before.revision == 0 or _shape(before) != _shape(after):
            self._follow(arms_of=[route.service])
        return after

    def move(self, deployment: Deployment) -> Route:
        service = deployment.service
        with self._locked(service):
            before = self._current(service)
            if not before.revision:
                raise UnknownService(service, known=self.services())
            after = before.moved(deployment)
            if after != before:
                self._put(before, after)
        if after != before:
            self._follow(arms_of=[service])
        return after

    def unacknowledged(self, route: Route) -> tuple[str, ...]:
        return self._delivery.unacknowledged(route)

    def ask_for_keys(self, service: str) -> None:
        """Ask for API keys from now on, if the route was written before the gateway could. No new revision:
        nobody decided anything, for pods asked for them until now.
        """
        with self._locked(service):
            route = self._current(service)
            if not route.revision or endpoints.is_told_of_keys(self.file(service).read_bytes()):
                return
            self._put(route, replace(route, settings=replace(route.settings, api_keys=True)))
        self._follow(arms_of=[service])

    def reconcile(self) -> None:
        """Derive arms, clusters and routes from the records; writes only what changed.

        What was derived of a record that cannot be read now stays, and keeps nothing else from being derived.
        """
        self._follow(arms_of=self.services())

    def _follow(self, *, arms_of: list[str]) -> None:
        """With hundreds of services only the arms of the one that changed are looked at."""
        with self._exclusive(self._home.envoy / "derived.lock"):
            known, unread = [], []
            for service in self.services():
                try:
                    known.append(self.read(service))
                except UnreadableRoute as problem:
                    log.warning("%s stays as it is at the gateway: %s", service, problem)
                    unread.append(service)
            derive(self._home, known, unread, arms_of=arms_of, source=self._delivery.endpoints)

    def file(self, service: str) -> Path:
        """The endpoint file of `service`."""
        return self._home.routes / service / _FILE

    def _put(self, before: Route, after: Route) -> Route:
        """Write the record. A full disk takes no new file, but a rename: so a candidate with traffic has the
        file that takes it away ready beside the record, and gets no traffic without.
        """
        way_back = self.file(after.service).with_name(_WAY_BACK)
        if after.split.candidate > 0:
            back = replace(after, revision=after.revision + 1, split=ALL_STABLE)
            write_file(way_back, endpoints.render(back))
        try:
            write_file(self.file(after.service), endpoints.render(after))
        except OSError as problem:
            return self._go_back(way_back, before, after, problem)
        if after.split.candidate == 0:
            with suppress(OSError):
                way_back.unlink(missing_ok=True)
        return after

    def _go_back(self, way_back: Path, before: Route, after: Route, problem: OSError) -> Route:
        """Rename the file made earlier, if it says what was to be written now; else raise `problem`."""
        try:
            back = _parse(way_back, after.service)
        except (FileNotFoundError, UnreadableRoute):
            raise problem from None
        # It may know newer endpoints, if pods moved when the disk was full already.
        if replace(back, revision=after.revision) != after.placed_as_in(back):
            raise problem
        if back.revision <= before.revision:
            raise problem
        take_place(way_back, self.file(after.service))
        log.warning(
            "took the way back of %s that lay ready, for the disk takes no file: %s", after.service, problem
        )
        return back

    def _current(self, service: str) -> Route:
        try:
            return _parse(self.file(service), service)
        except FileNotFoundError:
            return Route(service, 0, ALL_STABLE, None, None)

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
    if not MODEL_NAME.fullmatch(service) or ".." in service or service.endswith(RESERVED_SUFFIXES):
        endings = ", ".join(RESERVED_SUFFIXES)
        raise Permanent(
            f"{service!r} cannot be the name of a service",
            remedy=f"use letters, digits, '_', '-', '.', and end it with none of {endings}",
        )


def _parse(path: Path, service: str) -> Route:
    """The record of `service` in the file. Raises `UnreadableRoute` if it holds none."""
    try:
        route = endpoints.parse(path.read_bytes())
        if route.service != service:
            raise ValueError(f"it is the record of {route.service}")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as problem:
        raise UnreadableRoute(
            f"{path} is not the record of a route: {problem!r}",
            remedy="put a backup in its place, or remove it and release the model again; "
            "until then the gateway goes on with what it read last",
        ) from problem
    return route

"""Where the pods are that routes name: asked again and again, and told to the gateway when they moved.

Weights are not its business. It runs beside the ticks, on threads of its own: a platform that takes its time,
or never answers, must keep neither a look at the traffic waiting nor the pods of other services.
"""

from __future__ import annotations

import logging
import threading
from queue import Queue

from model_store.errors import SlipwayError
from serving.gateway.router.base import TrafficRouter
from serving.platforms.base import DeploymentStatus, Followed, Platform
from serving.types import Deployment, DeploymentRef

log = logging.getLogger("slipway.controller")

LOOK_SECONDS = 2.0
# So many services whose platform does not answer keep no other waiting.
WORKERS = 8


class PodWatch:
    """What the platform last said of every deployment in a route."""

    def __init__(self, platform: Platform, router: TrafficRouter) -> None:
        self._platform, self._router = platform, router
        self._known: dict[str, dict[DeploymentRef, DeploymentStatus]] = {}
        self._asking: set[str] = set()
        # Of which something happened while they were asked.
        self._again: set[str] = set()
        self._lock = threading.Lock()
        self._due: Queue[str] = Queue()

    def status(self, ref: DeploymentRef) -> DeploymentStatus | None:
        """As of the last look; None where the platform could not be asked, which says nothing of pods."""
        return self._known.get(ref.service, {}).get(ref)

    def run(self, ending: threading.Event, *, every_seconds: float = LOOK_SECONDS) -> None:
        """Ask for every service again and again, none twice at once, until the event is set."""
        for number in range(WORKERS):
            threading.Thread(target=self._work, daemon=True, name=f"pods-{number}").start()
        if isinstance(self._platform, Followed):
            self._platform.follow(self.stir, ending)
        while not ending.wait(every_seconds):
            try:
                for service in self._services():
                    self._ask_soon(service)
            except OSError as problem:
                log.warning("which services there are is not known now: %s", problem)

    def stir(self, service: str) -> None:
        """Something happened there: ask now, not with the next round."""
        if service in self._known:
            self._again.add(service)
            self._ask_soon(service)

    def _ask_soon(self, service: str) -> None:
        with self._lock:
            if service in self._asking:
                return
            self._asking.add(service)
        self._due.put(service)

    def look(self) -> None:
        """Ask for all of them, one after the other."""
        for service in self._services():
            self._ask(service)

    def _services(self) -> list[str]:
        services = self._router.services()
        for gone in self._known.keys() - set(services):
            del self._known[gone]
        return services

    def _work(self) -> None:
        while True:
            service = self._due.get()
            self._again.discard(service)
            self._ask(service)
            self._asking.discard(service)
            if service in self._again:
                self._ask_soon(service)

    def _ask(self, service: str) -> None:
        """One service's trouble never keeps the others from being followed."""
        known: dict[DeploymentRef, DeploymentStatus] = {}
        try:
            known = self._follow(service)
        except (SlipwayError, OSError) as problem:
            log.debug("%s: where its pods are is not known now: %s", service, problem)
        except Exception:
            log.exception("%s: its pods could not be followed", service)
        self._known[service] = known

    def _follow(self, service: str) -> dict[DeploymentRef, DeploymentStatus]:
        route, seen = self._router.read(service), {}
        for arm in (route.stable, route.candidate):
            if arm:
                seen[arm.ref] = status = self._platform.status(arm.ref)
                # Never to nowhere: where pods were is all that there is until they are somewhere else.
                if status.endpoints and set(status.endpoints) != set(arm.endpoints):
                    self._move(arm, status)
        return seen

    def _move(self, arm: Deployment, status: DeploymentStatus) -> None:
        self._router.move(Deployment(arm.ref, status.endpoints))
        before, now = (", ".join(map(str, each)) for each in (arm.endpoints, status.endpoints))
        log.info("the pods of %s moved from %s to %s", arm.id, before, now)

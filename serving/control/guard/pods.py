"""Where the pods are that routes name: asked again and again, and told to the gateway when they moved.

Weights are not its business. It runs beside the guard's ticks, on a thread of its own: a platform that takes
its time must never keep a look at the traffic waiting.
"""

from __future__ import annotations

import logging
import threading

from model_store.errors import SlipwayError
from serving.gateway.router.base import TrafficRouter
from serving.platforms.base import DeploymentStatus, Platform
from serving.types import Deployment, DeploymentRef

log = logging.getLogger("slipway.guard")

LOOK_SECONDS = 2.0


class PodWatch:
    """What the platform last said of every deployment in a route."""

    def __init__(self, platform: Platform, router: TrafficRouter) -> None:
        self._platform, self._router = platform, router
        self._known: dict[DeploymentRef, DeploymentStatus] = {}

    def status(self, ref: DeploymentRef) -> DeploymentStatus | None:
        """As of the last look; None where the platform could not be asked, which says nothing of pods."""
        return self._known.get(ref)

    def run(self, ending: threading.Event) -> None:
        while not ending.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Ask for all of them. One service's trouble never keeps the others from being followed."""
        known: dict[DeploymentRef, DeploymentStatus] = {}
        for service in self._router.services():
            try:
                known |= self._follow(service)
            except (SlipwayError, OSError) as problem:
                log.debug("%s: where its pods are is not known now: %s", service, problem)
            except Exception:
                log.exception("%s: its pods could not be followed", service)
        self._known = known

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

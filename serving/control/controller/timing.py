"""How long both arms' answers took, looked at now and then: for people to read, never for a verdict."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from model_store.errors import SlipwayError
from serving.control.controller.watch import ReleaseWatch
from serving.control.rollout.plan import RolloutState
from serving.metrics.latency import LatencySource
from serving.types import Deployment, Endpoint, Route

log = logging.getLogger("slipway.controller")

EVERY_SECONDS = 5.0
# So many in one look: Envoy answers on the thread that also takes on new routes.
MOST_AT_ONCE = 20


class Timing:
    """Asks for the releases that were not looked at for longest, a few with each tick."""

    def __init__(self, source: LatencySource, *, monotonic: Callable[[], float]) -> None:
        self._source, self._monotonic = source, monotonic
        self._looked: dict[str, float] = {}

    def look(self, active: Sequence[tuple[RolloutState, Route]], watches: dict[str, ReleaseWatch]) -> None:
        """Of those that are due. A proxy that does not answer is asked again when they are due again."""
        now = self._monotonic()
        last = {state.release_id: self._looked.get(state.release_id, 0.0) for state, _ in active}
        due = [each for each in active if not 0 <= now - last[each[0].release_id] < EVERY_SECONDS]
        due = sorted(due, key=lambda each: last[each[0].release_id])[:MOST_AT_ONCE]
        self._looked = last | {state.release_id: now for state, _ in due}
        if not due:
            return
        try:
            seen = self._source.latencies(state.service for state, _ in due)
        except SlipwayError as problem:
            log.debug("no latencies: %s", problem)
            return
        for state, route in due:
            watch = watches[state.release_id]
            arms = _endpoints(route.stable), _endpoints(route.candidate)
            watch.latencies = watch.latencies.after(*arms, seen.get(state.service, {}))


def _endpoints(deployment: Deployment | None) -> tuple[Endpoint, ...]:
    return deployment.endpoints if deployment else ()

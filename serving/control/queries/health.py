"""How the models' users fare now, by the proxy's own counters: judged over the last minute. No waiting."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from model_store.errors import Retryable
from serving.control.queries.statuses import HealthNow, ModelHealth
from serving.figures import percent
from serving.metrics.base import EndpointCounters, MetricsSource
from serving.types import Counts, Deployment, Endpoint, Route

Counters = dict[str, dict[Endpoint, EndpointCounters]]

WINDOW_SECONDS = 60.0
LOOK_SECONDS = 2.0
# Fewer failures than this say little; more than this share of the attempts are called failing.
FEW_ERRORS = 3
FAILING_SHARE = 0.01
# Some of these are what callers send, at any version; this many are worth a look, whosever doing it is.
REFUSING_SHARE = 0.1


class HealthMonitor:
    """Looks at the proxy when somebody asks, every two seconds at most, and keeps a minute of it."""

    def __init__(self, source: MetricsSource, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._monotonic = monotonic
        self._looking = threading.Lock()
        self._samples: deque[tuple[float, Counters]] = deque()
        self._answers = False
        self._looked = float("-inf")
        self._judged: dict[str, tuple[Route, float, HealthNow]] = {}

    def of(self, route: Route | None) -> HealthNow:
        """How the users of this route fare."""
        self._look()
        known = self._judged.get(route.service) if route else None
        if route and known and known[0] is route and known[1] == self._looked:
            return known[2]
        health = self._judge(route)
        if route:
            self._judged[route.service] = (route, self._looked, health)
        return health

    def _judge(self, route: Route | None) -> HealthNow:
        samples = [(at, counters.get(route.service, {})) for at, counters in self._samples] if route else []
        return judge(route, samples if self._answers else None)

    def _look(self) -> None:
        """Whoever comes while another looks takes what is known: the proxy may be slow to answer."""
        if self._monotonic() - self._looked < LOOK_SECONDS or not self._looking.acquire(blocking=False):
            return
        try:
            counters = self._source.counters()
            self._samples.append((self._monotonic(), counters))
            self._answers = True
        except Retryable:
            self._answers = False
            self._samples.clear()
        finally:
            self._looked = self._monotonic()
            while self._samples and self._samples[0][0] < self._looked - WINDOW_SECONDS - LOOK_SECONDS:
                self._samples.popleft()
            self._looking.release()


def judge(
    route: Route | None, samples: list[tuple[float, dict[Endpoint, EndpointCounters]]] | None
) -> HealthNow:
    """From looks at one route's endpoints, oldest first, as (uptime, counters); None: the proxy is silent."""
    arms = _serving(route)
    if not arms:
        return HealthNow(ModelHealth.ABSENT, "no version serves")
    if not samples:
        return HealthNow(ModelHealth.UNKNOWN, "the gateway does not answer, so nobody can tell")
    endpoints = [endpoint for arm in arms for endpoint in arm.endpoints]
    newest = samples[-1][1]
    ready = sum(1 for endpoint in endpoints if endpoint in newest and newest[endpoint].healthy)
    seen = _growth(samples[0][1], newest, endpoints, samples[-1][0] - samples[0][0])
    health, words = _verdict(ready, len(endpoints), seen)
    return HealthNow(
        health,
        words,
        seen.requests,
        seen.errors,
        seen.window_seconds,
        len(endpoints),
        ready,
        seen.refused,
        seen.malformed,
    )


def _verdict(ready: int, pods: int, seen: Counts) -> tuple[ModelHealth, str]:
    pods_words = f"{ready} of {pods} {'pod' if pods == 1 else 'pods'} ready"
    is_minute = seen.window_seconds > WINDOW_SECONDS / 2
    span = "the last minute" if is_minute else f"the last {max(seen.window_seconds, 1):.0f} s"
    if not ready:
        return ModelHealth.DOWN, f"no pod answers ({pods_words})"
    missing = f"; {pods_words}" if ready < pods else ""
    if not seen.requests:
        return ModelHealth.IDLE, f"no requests in {span}{missing or f'; {pods_words}'}"
    health = ModelHealth.FAILING if _is_failing(seen) else ModelHealth.HEALTHY
    return health, f"{_told(seen)} in {span}{missing}"


def _is_failing(seen: Counts) -> bool:
    limits = ((seen.errors, FAILING_SHARE), (seen.refused, REFUSING_SHARE))
    return any(count >= FEW_ERRORS and count > share * seen.requests for count, share in limits)


def _told(seen: Counts) -> str:
    """What became of the requests; without a failure what else kept them from an answer comes first."""
    kinds = (
        (seen.errors, "attempts failed"),
        (seen.refused, "requests were refused by the model"),
        (seen.malformed, "requests were malformed"),
    )
    told = [f"{count:,} of {seen.requests:,} {words}{_share(count, seen)}" for count, words in kinds if count]
    return ", ".join(told) or f"none of {seen.requests:,} attempts failed"


def _share(count: int, seen: Counts) -> str:
    return f" ({percent(count / seen.requests)})" if count >= FEW_ERRORS else ""


def _serving(route: Route | None) -> list[Deployment]:
    if route is None:
        return []
    arms = [(route.stable, route.split.stable), (route.candidate, route.split.candidate)]
    return [arm for arm, weight in arms if arm and weight > 0]


def _growth(
    before: Mapping[Endpoint, EndpointCounters],
    now: Mapping[Endpoint, EndpointCounters],
    endpoints: list[Endpoint],
    seconds: float,
) -> Counts:
    """Attempts that ended, and what became of them. Counters lower than before began again at 0."""
    seen = Counts(0, 0, 0, seconds)
    for endpoint in endpoints:
        if (new := now.get(endpoint)) is None:
            continue
        old = before.get(endpoint)
        began_again = old is None or old.requests > new.requests or old.errors > new.errors
        seen += _counts(new) if began_again or old is None else _counts(new) - _counts(old)
    return seen


def _counts(now: EndpointCounters) -> Counts:
    return Counts(now.requests, now.errors - now.repeated, now.slow, 0.0, now.refused, now.malformed)

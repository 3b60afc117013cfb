"""The counters of several Envoys, as one source: each has a baseline of its own (`serving.metrics.baseline`).

Half of them have to be readable. What those who are not did stays as it was last known, and is told: whoever
does not answer may still serve. With fewer than half nobody knows what callers see, which is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from model_store.errors import SlipwayError
from serving.metrics.base import EndpointCounters
from serving.metrics.baseline import Baseline, LatencyBaseline, summed
from serving.metrics.envoy import EnvoyAdmin, MetricsUnavailable
from serving.metrics.latency import Buckets, added
from serving.types import Endpoint

# Of the proxies, so many have to answer.
LEAST_SHARE = 0.5
_THREADS = 16

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Counters = dict[str, dict[Endpoint, EndpointCounters]]
Latencies = dict[str, dict[Endpoint, Buckets]]


class _Reader(Generic[Answer]):
    """Asks all proxies at once, and waits for none that did not answer the last time.

    `admins` gives the address of each proxy's admin port, by the proxy's id.
    """

    def __init__(self, admins: Callable[[], Mapping[str, str]], timeout_seconds: float) -> None:
        self._find, self._timeout_seconds = admins, timeout_seconds
        self._admins: dict[tuple[str, str], EnvoyAdmin] = {}
        self._asked: dict[tuple[str, str], Future[Answer]] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="metrics")
        self._told: set[str] = set()
        self.unreadable: dict[str, str] = {}

    def read(self, ask: Callable[[EnvoyAdmin], Answer]) -> dict[str, Answer]:
        """By proxy. Raises `MetricsUnavailable` when fewer than half of them answer."""
        proxies = {(id, address) for id, address in self._find().items() if address}
        for gone in self._admins.keys() - proxies:
            self._forget(gone)
        fresh = {proxy: self._ask(proxy, ask) for proxy in proxies if proxy not in self._asked}
        self._asked |= fresh
        wait(fresh.values(), timeout=self._timeout_seconds)
        found = {id: self._answer((id, address)) for id, address in sorted(proxies)}
        answers = {id: answer for id, answer in found.items() if answer is not None}
        self._tell({id for id, _ in proxies} - answers.keys())
        if not answers or len(answers) < LEAST_SHARE * len(proxies):
            raise MetricsUnavailable(
                f"{len(answers)} of {len(proxies)} Envoys could be counted: "
                + ("; ".join(self.unreadable.values()) or "none is there"),
                remedy="look at them: slipway proxies",
                delay_seconds=1,
            )
        return answers

    def close(self) -> None:
        self._pool.shutdown(wait=True)
        for admin in self._admins.values():
            admin.close()

    def _ask(self, proxy: tuple[str, str], ask: Callable[[EnvoyAdmin], Answer]) -> Future[Answer]:
        known = self._admins.get(proxy)
        if known is None:
            url = f"http://{proxy[1]}"
            known = self._admins[proxy] = EnvoyAdmin(url, timeout_seconds=self._timeout_seconds)
        return self._pool.submit(ask, known)

    def _answer(self, proxy: tuple[str, str]) -> Answer | None:
        future = self._asked[proxy]
        if not future.done():
            self.unreadable[proxy[0]] = f"Envoy {proxy[0]} does not answer"
            return None
        del self._asked[proxy]
        try:
            return future.result()
        except SlipwayError as problem:
            self.unreadable[proxy[0]] = f"Envoy {proxy[0]}: {problem.problem}"
            return None

    def _tell(self, unreadable: set[str]) -> None:
        for id in unreadable - self._told:
            log.warning("not counted: %s", self.unreadable[id])
        for id in self._told - unreadable:
            log.info("counted again: Envoy %s", id)
        self.unreadable = {id: words for id, words in self.unreadable.items() if id in unreadable}
        self._told = unreadable

    def _forget(self, proxy: tuple[str, str]) -> None:
        if (asked := self._asked.pop(proxy, None)) is None or asked.done():
            self._admins[proxy].close()
        del self._admins[proxy]


class _Services:
    """The baselines of one proxy."""

    def __init__(self, *, joined_late: bool) -> None:
        self._joined_late, self._baselines = joined_late, dict[str, Baseline]()

    def of(self, service: str) -> Baseline:
        if service not in self._baselines:
            self._baselines[service] = Baseline(self._joined_late)
        return self._baselines[service]


_Inputs = dict[str, dict[Endpoint, EndpointCounters] | None]


class Proxies:
    """`MetricsSource` and `LatencySource` over several Envoys. Not for use by several threads."""

    def __init__(self, admins: Callable[[], Mapping[str, str]], *, timeout_seconds: float = 0.5) -> None:
        self._counters: _Reader[Counters] = _Reader(admins, timeout_seconds)
        self._latencies: _Reader[Latencies] = _Reader(admins, timeout_seconds)
        self._baselines: dict[str, _Services] = {}
        self._times: dict[str, dict[tuple[str, Endpoint], LatencyBaseline]] = {}
        self._summed: dict[str, tuple[_Inputs, dict[Endpoint, EndpointCounters]]] = {}

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Which Envoys were not counted in the last look, and why."""
        return self._counters.unreadable

    def counters(self) -> Counters:
        """All services' endpoints, of all Envoys together. Raises `MetricsUnavailable`."""
        answers = self._counters.read(lambda admin: admin.counters())
        is_first = not self._baselines
        for id in answers.keys() - self._baselines.keys():
            self._baselines[id] = _Services(joined_late=not is_first)
        services = {service for counters in answers.values() for service in counters}
        return {service: self._sum(service, answers) for service in services}

    def latencies(self, services: Iterable[str]) -> Latencies:
        """How long answers took, by service and endpoint, of all Envoys together."""
        wanted = list(services)
        answers = self._latencies.read(lambda admin: admin.latencies(wanted))
        is_first = not self._times
        for id, found in answers.items():
            known = self._times.setdefault(id, {})
            joined_late = not is_first and not known
            for service, times in found.items():
                for endpoint, buckets in times.items():
                    known.setdefault((service, endpoint), LatencyBaseline(joined_late)).after(buckets)
        return {service: self._times_of(service) for service in wanted}

    def close(self) -> None:
        self._counters.close()
        self._latencies.close()

    def _sum(self, service: str, answers: Mapping[str, Counters]) -> dict[Endpoint, EndpointCounters]:
        """The same object as before, if nothing changed."""
        inputs = {id: answers.get(id, {}).get(service) for id in self._baselines}
        before = self._summed.get(service)
        if before and before[0].keys() == inputs.keys() and all(before[0][id] is inputs[id] for id in inputs):
            return before[1]
        there = {endpoint for now in inputs.values() for endpoint in now or ()}
        baselines = [known.of(service) for known in self._baselines.values()]
        for baseline, now in zip(baselines, inputs.values(), strict=True):
            baseline.look(now)
            baseline.forget_all_but(there)
        whole = summed(baselines)
        self._summed[service] = inputs, whole
        return whole

    def _times_of(self, service: str) -> dict[Endpoint, Buckets]:
        whole: dict[Endpoint, Buckets] = {}
        for known in self._times.values():
            for (name, endpoint), baseline in known.items():
                if name == service:
                    whole[endpoint] = added(whole.get(endpoint, {}), baseline.whole)
        return whole

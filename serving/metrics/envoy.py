"""Envoy's own counters, read from its admin port.

Errors and requests are per endpoint from `/clusters`: retried failures are visible there and only there.
Slow, broken, abandoned, refused and malformed attempts are per endpoint from counters that the gateway's log
of attempts keeps (`serving.gateway.attempts`).
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from model_store.errors import Retryable
from serving.envoy_names import (
    ABANDONED,
    ANSWERED,
    BROKEN,
    MALFORMED,
    NOTED,
    PREVIEW_SUFFIX,
    REFUSED,
    REPEATED,
    RESERVED_SUFFIXES,
    SLOW,
    STABLE_SUFFIX,
    UNANSWERED,
    UNINFORMATIVE,
)
from serving.home import Home
from serving.metrics.base import EndpointCounters
from serving.metrics.latency import Buckets, added, bucket_of
from serving.sockets import UnixConnection
from serving.types import Endpoint

_KINDS = {ANSWERED: 0.001, UNANSWERED: 1.0}  # ms in a unit
# As `slipway.answered.service.fraud.host.127.0.0.1:8500`.
_NAME = re.compile(r"slipway\.(\w+)\.service\.(.+)\.host\.(.+):(\d+)")


def path_of(services: Iterable[str]) -> str:
    """What to ask Envoy's admin port for. Without the names it would look through every service's."""
    names = "|".join(re.escape(name) for name in services)
    wanted = rf"^slipway\.({'|'.join(_KINDS)})\.service\.({names})({re.escape(STABLE_SUFFIX)})?\.host\."
    return f"/stats?format=json&type=Histograms&histogram_buckets=detailed&filter={quote(wanted)}"


def parsed(content: bytes) -> dict[str, dict[Endpoint, Buckets]]:
    """By service and endpoint. Raises ValueError, KeyError or TypeError for what Envoy never says."""
    found: dict[str, dict[Endpoint, Buckets]] = {}
    for part in orjson.loads(content)["stats"]:
        for one in part.get("histograms", {}).get("details", ()):
            if named := _NAME.fullmatch(one["name"]):
                kind, service, host, port = named.groups()
                mine = found.setdefault(service.removesuffix(STABLE_SUFFIX), {})
                endpoint = Endpoint(host, int(port))
                mine[endpoint] = added(mine.get(endpoint, {}), _buckets(one["totals"], _KINDS[kind]))
    return found


def _buckets(totals: Iterable[dict[str, float]], unit_ms: float) -> Buckets:
    """Envoy's buckets are of two digits: each falls into ours by its middle."""
    middles = ((bucket_of(unit_ms * (one["lower_bound"] + one["width"] / 2)), one["count"]) for one in totals)
    return added(*({number: int(count)} for number, count in middles))


_CLUSTERS = "/clusters?format=json"
_NOTED = "/stats?type=Counters&filter=^slipway\\."
_NOTED_PREFIX = "slipway."
_BEGIN, _BETWEEN, _END = b'{\n "cluster_statuses": [\n  {', b"\n  },\n  {", b"\n  }\n ]\n}"

_Hosts = dict[Endpoint, EndpointCounters]
_Noted = dict[tuple[str, str], int]  # by what it is and address
# Attempts, repeats on stable, the candidate's endpoints, and what was noted of attempts and repeats.
_Sources = tuple[_Hosts, _Hosts, frozenset[Endpoint], _Noted]


class MetricsUnavailable(Retryable):
    """The proxy does not answer, or not in a way we understand."""


class EnvoyAdmin:
    """`MetricsSource` over one kept-alive connection. Not for use by several threads.

    `address`: what may be read of it, as a URL, or its admin interface's socket.
    """

    def __init__(self, address: str | Path, *, timeout_seconds: float = 1.0) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._connection: http.client.HTTPConnection | None = None
        self._clusters: dict[bytes, list[tuple[str, _Hosts]]] = {}
        self._services: dict[str, tuple[_Sources, _Hosts]] = {}

    @classmethod
    def of_home(cls, home: Home) -> EnvoyAdmin:
        """As the group `slipway.metrics_sources` makes one."""
        return cls(home.envoy_admin)

    def counters(self) -> dict[str, dict[Endpoint, EndpointCounters]]:
        """All services' endpoints. Raises `MetricsUnavailable`.

        A service of which nothing changed since the last call is the same object as then.
        """
        with self._understood("counters"):
            # In this order no refused request is seen before it is known to be refused.
            clusters = self._get(_CLUSTERS)
            return self._endpoint_counters(clusters, _noted(self._get(_NOTED)))

    def latencies(self, services: Iterable[str]) -> dict[str, dict[Endpoint, Buckets]]:
        """How long answers took, by service and endpoint (`LatencySource`). Raises `MetricsUnavailable`."""
        with self._understood("latencies"):
            return parsed(self._get(path_of(services)))

    @contextmanager
    def _understood(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as problem:
            self.close()
            raise MetricsUnavailable(
                f"Envoy at {self._address} gave no {what}: {problem!r}",
                remedy="check that Envoy runs: slipway status",
                delay_seconds=1,
            ) from problem

    def _endpoint_counters(self, text: bytes, noted: dict[str, _Noted]) -> dict[str, _Hosts]:
        self._clusters = {part: self._clusters.get(part) or _cluster(part) for part in _parts(text)}
        hosts = dict(chain.from_iterable(self._clusters.values()))
        sources: dict[str, _Sources] = {
            name: (
                attempts,
                hosts.get(name + STABLE_SUFFIX, {}),
                frozenset(hosts.get(name + PREVIEW_SUFFIX, ())),
                noted.get(_as_noted(name), {}),
            )
            for name, attempts in hosts.items()
            if not name.endswith(RESERVED_SUFFIXES)
        }
        before, self._services = self._services, {}
        for name, now in sources.items():
            known = before.get(name)
            # Comparing what was parsed before with itself costs nothing: Python looks at identity first.
            self._services[name] = known if known and known[0] == now else (now, _combined(*now))
        return {name: combined for name, (_, combined) in self._services.items()}

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def _get(self, path: str) -> bytes:
        is_reused = self._connection is not None
        try:
            return self._ask(path)
        except (ConnectionError, http.client.HTTPException):
            # Envoy may have restarted since the last look: then the old connection is dead, not Envoy.
            self.close()
            if not is_reused:
                raise
            return self._ask(path)

    def _ask(self, path: str) -> bytes:
        if self._connection is None:
            self._connection = self._connected()
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise http.client.HTTPException(f"{path}: status {answer.status}")
        return body

    def _connected(self) -> http.client.HTTPConnection:
        if isinstance(self._address, Path):
            return UnixConnection(self._address, timeout=self._timeout_seconds)
        url = urlsplit(self._address)
        return http.client.HTTPConnection(
            url.hostname or "127.0.0.1", url.port, timeout=self._timeout_seconds
        )


def _noted(text: bytes) -> dict[str, _Noted]:
    """By cluster, from lines like `slipway.slow.service.fraud.host.127.0.0.1:8500: 12`."""
    counts: dict[str, _Noted] = {}
    for line in text.decode().splitlines():
        name, _, value = line.rpartition(": ")
        what, _, place = name.removeprefix(_NOTED_PREFIX).partition(".service.")
        cluster, _, address = place.rpartition(".host.")
        counts.setdefault(cluster, {})[what, address] = int(value)
    return counts


def _as_noted(service: str) -> str:
    """Envoy leaves out a dot at the end of a part of a counter's name. Addresses tell `a` and `a.` apart."""
    return service.removesuffix(".")


def _parts(text: bytes) -> list[bytes]:
    """The text of each cluster, as a JSON object; the whole text where Envoy lays it out in another way.

    Parsing megabytes of JSON was most of the controller's work with hundreds of services, of which few change
    between two looks. In JSON a line end never stands inside a string, so its indentation tells the level.
    """
    if not (text.startswith(_BEGIN) and text.rstrip().endswith(_END)):
        return [text]
    inside = text.rstrip()[len(_BEGIN) : -len(_END)]
    return [b"{" + part + b"}" for part in inside.split(_BETWEEN)]


def _cluster(text: bytes) -> list[tuple[str, _Hosts]]:
    """Name and endpoints of each cluster in a part; none for those that hold no endpoints."""
    content = dict(orjson.loads(text))
    clusters = content.get("cluster_statuses", [content])
    return [(cluster["name"], dict(map(_counters, _pods(cluster)))) for cluster in clusters]


def _pods(cluster: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Envoy's way to its own admin interface is a socket's path, and no pod."""
    return (host for host in cluster.get("host_statuses", ()) if "socket_address" in host["address"])


def _combined(attempts: _Hosts, repeats: _Hosts, candidates: frozenset[Endpoint], noted: _Noted) -> _Hosts:
    """What stable answered a second time comes through a cluster of its own, from the same endpoint."""
    return {
        endpoint: _whole(first, repeats.get(endpoint, _NONE), noted, str(endpoint))
        for endpoint, first in (dict.fromkeys(candidates, _WITHOUT_TRAFFIC) | attempts).items()
    }


def _whole(first: EndpointCounters, again: EndpointCounters, noted: _Noted, address: str) -> EndpointCounters:
    count = {what: noted.get((what, address), 0) for what in NOTED}
    return replace(
        first,
        requests=first.requests + again.requests + count[ABANDONED],
        errors=first.errors + again.errors + count[BROKEN],
        active=first.active + again.active,
        slow=count[SLOW],
        abandoned=count[ABANDONED],
        broken=count[BROKEN],
        refused=count[REFUSED],
        repeated=count[REPEATED],
        malformed=count[MALFORMED],
        uninformative=count[UNINFORMATIVE],
    )


def _counters(host: dict[str, Any]) -> tuple[Endpoint, EndpointCounters]:
    place = host["address"]["socket_address"]
    # A counter at 0 has no value in Envoy's JSON.
    stats = {stat["name"]: int(stat.get("value", 0)) for stat in host["stats"]}
    return Endpoint(place["address"], place["port_value"]), EndpointCounters(
        # rq_total counts attempts that began, but none that could not connect; these two, those that ended.
        requests=stats["rq_success"] + stats["rq_error"],
        errors=stats["rq_error"],
        slow=0,
        active=stats["rq_active"],
        healthy=not _UNWELL & host["health_status"].keys(),
        weight=int(host.get("weight", 1)),
        priority=int(host.get("priority", 0)),
    )


_UNWELL = {"failed_active_health_check", "failed_outlier_check", "pending_active_hc"}
_NONE = EndpointCounters(0, 0, 0, active=0, healthy=True)
_WITHOUT_TRAFFIC = EndpointCounters(0, 0, 0, active=0, healthy=False, weight=0)

"""Envoy's own counters, read from its admin port.

Errors and requests are per endpoint from `/clusters`: retried failures are visible there and only there. Slow
answers are per endpoint from a counter that the gateway's access logger keeps (`serving.gateway.bootstrap`).
"""

from __future__ import annotations

import http.client
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import orjson

from model_store.errors import Retryable
from serving.gateway.clusters import RESERVED_SUFFIXES, STABLE_SUFFIX
from serving.metrics.base import EndpointCounters
from serving.types import Endpoint

_CLUSTERS = "/clusters?format=json"
_SLOW = "/stats?type=Counters&filter=^slipway\\.slow\\."
_SLOW_PREFIX = "slipway.slow.service."


class MetricsUnavailable(Retryable):
    """The proxy does not answer, or not in a way we understand."""


class EnvoyAdmin:
    """`MetricsSource` over one kept-alive connection. Not for use by several threads."""

    def __init__(self, url: str, *, timeout_seconds: float = 1.0) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._connection: http.client.HTTPConnection | None = None

    def counters(self) -> dict[str, dict[Endpoint, EndpointCounters]]:
        """All services' endpoints. Raises `MetricsUnavailable`."""
        try:
            slow = _slow_counts(self._get(_SLOW))
            return _endpoint_counters(orjson.loads(self._get(_CLUSTERS)), slow)
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as problem:
            self.close()
            raise MetricsUnavailable(
                f"Envoy's admin port {self._url} gave no counters: {problem!r}",
                remedy="check that Envoy runs: slipway status",
                delay_seconds=1,
            ) from problem

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
            address = urlsplit(self._url)
            self._connection = http.client.HTTPConnection(
                address.hostname or "127.0.0.1", address.port, timeout=self._timeout_seconds
            )
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise http.client.HTTPException(f"{path}: status {answer.status}")
        return body


def _slow_counts(text: bytes) -> dict[tuple[str, str], int]:
    """By (cluster, address), from lines like `slipway.slow.service.fraud.host.127.0.0.1:8500: 12`."""
    counts = {}
    for line in text.decode().splitlines():
        name, _, value = line.rpartition(": ")
        cluster, _, address = name.removeprefix(_SLOW_PREFIX).rpartition(".host.")
        counts[cluster, address] = int(value)
    return counts


def _endpoint_counters(
    clusters: dict[str, Any], slow: dict[tuple[str, str], int]
) -> dict[str, dict[Endpoint, EndpointCounters]]:
    found: dict[str, dict[Endpoint, EndpointCounters]] = {}
    repeats: dict[str, Any] = {}
    for cluster in clusters["cluster_statuses"]:
        name, hosts = cluster["name"], cluster.get("host_statuses", ())
        if name.endswith(STABLE_SUFFIX):
            repeats[name.removesuffix(STABLE_SUFFIX)] = hosts
        elif not name.endswith(RESERVED_SUFFIXES):
            found[name] = dict(_counters(name, host, slow) for host in hosts)
    for service, hosts in repeats.items():
        _add_repeats(found.get(service, {}), hosts)
    return found


def _add_repeats(counters: dict[Endpoint, EndpointCounters], hosts: list[dict[str, Any]]) -> None:
    """What stable answered a second time comes through a cluster of its own, from the same endpoint."""
    for host in hosts:
        # A counter at 0 has no value in Envoy's JSON; most services repeat nothing most of the time.
        if not any("value" in stat for stat in host["stats"]):
            continue
        endpoint, repeats = _counters("", host, {})
        if known := counters.get(endpoint):
            counters[endpoint] = replace(
                known,
                requests=known.requests + repeats.requests,
                errors=known.errors + repeats.errors,
                active=known.active + repeats.active,
            )


def _counters(
    service: str, host: dict[str, Any], slow: dict[tuple[str, str], int]
) -> tuple[Endpoint, EndpointCounters]:
    place = host["address"]["socket_address"]
    endpoint = Endpoint(place["address"], place["port_value"])
    stats = {stat["name"]: int(stat.get("value", 0)) for stat in host["stats"]}
    return endpoint, EndpointCounters(
        # rq_total counts attempts that began, but none that could not connect; these two, those that ended.
        requests=stats["rq_success"] + stats["rq_error"],
        errors=stats["rq_error"],
        slow=slow.get((service, str(endpoint)), 0),
        active=stats["rq_active"],
        healthy=not _UNWELL & host["health_status"].keys(),
        weight=int(host.get("weight", 1)),
        priority=int(host.get("priority", 0)),
    )


_UNWELL = {"failed_active_health_check", "failed_outlier_check", "pending_active_hc"}

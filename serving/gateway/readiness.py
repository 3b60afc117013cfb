"""`/v2/health/ready` at the gateway: whether every model that has a stable version can be answered for.

Envoy's own filter compares how many endpoints its health checks find healthy; its list of clusters is in a
file of its own, since models come and go. The protocol wants "ready" to mean all models: who looks for a
gateway that may take traffic asks `/v2/health/live`.
Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/health_check_filter
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import orjson

from serving.gateway.methods import READY
from serving.gateway.xds import Message, discovered_filter, discovery, named_extension, typed
from serving.home import Home
from serving.types import Route

_NAME = "slipway.ready"
_FILTER = "envoy.extensions.filters.http.health_check.v3.HealthCheck"

# Whole percent of a service's endpoints: one, unless there are more than a hundred.
_LEAST_PERCENT = 1
# No service can have this name, and no cluster has it.
_NOBODY = "(nobody)"


def found_by(source: Message) -> Message:
    """For the listener, before what refuses, limits and routes."""
    return discovered_filter(_NAME, source, _FILTER)


def file(home: Home) -> Path:
    return home.envoy / "ready.json"


def services_in(routes: Iterable[Route]) -> list[str]:
    """Those that have to be answered for. A first version on its way may still fail, and be none."""
    return [route.service for route in routes if route.stable]


def render(services: Iterable[str]) -> bytes:
    """Of services whose clusters have these names. Without any, the gateway has nothing to be ready for."""
    asked = [
        {"name": ":path", "string_match": {"safe_regex": {"regex": rf"{READY}(\?.*)?"}}},
        {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}},
    ]
    least = {service: {"value": _LEAST_PERCENT} for service in (list(services) or [_NOBODY])}
    config = typed(_FILTER, pass_through_mode=False, headers=asked, cluster_min_healthy_percentages=least)
    return discovery([named_extension(_NAME, config)])


def parse(content: bytes) -> list[str]:
    """The services in a file made by `render`."""
    (resource,) = orjson.loads(content)["resources"]
    found = resource["typed_config"]["cluster_min_healthy_percentages"]
    return [service for service in found if service != _NOBODY]

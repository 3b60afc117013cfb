"""Token buckets at the gateway: one for each service, and one for each of a service's clients.

A client is who has this name, where the model asks for API keys, and else who asks from this address: the
connection's, or, with SLIPWAY_TRUSTED_PROXIES=n before the gateway, the n-th last in `x-forwarded-for`. A key
that nobody has checked is no client, for callers may invent any number of them. Routes say what a request
counts as; the virtual host holds the buckets, so that all routes of a service share them. Envoy
forgets how full they were when the routes change, which happens when a version comes or goes.
Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/local_rate_limit_filter
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from model_store.errors import Permanent
from serving.gateway.xds import Message, extension, typed
from serving.types import RateLimit, Route

# Clients first, in a filter of their own: what a greedy one is refused must not empty the service's bucket.
CLIENTS, SERVICES = "slipway.limits.clients", "slipway.limits.services"
PROXIES = "SLIPWAY_TRUSTED_PROXIES"
CONFIG = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"

# Clients whose buckets are remembered; beyond, those seen longest ago start anew with a full one.
_CLIENTS = 20_000
_NO_LIMIT = 1_000_000_000

# Of a request whose key was checked (`serving.gateway.authentication`).
CLIENT_HEADER = "x-slipway-client"


def trusted_proxies(environ: Mapping[str, str]) -> int:
    """How many proxies before the gateway may say whose request it is. Raises `Permanent`."""
    text = environ.get(PROXIES, "0")
    # More than two digits are a slip, and past 32 bits Envoy would not start.
    if not (text.isascii() and text.isdigit() and len(text) <= 2):
        raise Permanent(
            f"{PROXIES}={text!r}", remedy="give how many proxies stand before the gateway: 0, 1, ..."
        )
    return int(text)


def filters() -> list[Message]:
    """For the listener: they limit nothing until a virtual host brings buckets."""
    return [extension(name, typed(CONFIG, stat_prefix="gateway")) for name in (CLIENTS, SERVICES)]


def counted_as(route: Route) -> list[Message]:
    """What a request of this service counts as, for its route; empty without limits."""
    settings, service = route.settings, _constant("service", route.service)
    found = [{"actions": [service]}] if settings.rate_limit else []
    if settings.client_rate_limit:
        found.append({"actions": [service, named_client() if settings.api_keys else {"remote_address": {}}]})
    return found


def named_client() -> Message:
    """The action that makes a request count as its client's."""
    return {"request_headers": {"header_name": CLIENT_HEADER, "descriptor_key": "client"}}


def buckets(routes: Iterable[Route]) -> dict[str, Message]:
    """The virtual host's configuration, by filter; empty when nothing is limited."""
    known = list(routes)
    found = {
        CLIENTS: [bucket for route in known for bucket in _of_clients(route)],
        SERVICES: [bucket for route in known for bucket in _of_service(route)],
    }
    return {name: holding(descriptors) for name, descriptors in found.items() if descriptors}


def holding(descriptors: list[Message], **more: Any) -> Message:
    """A filter's configuration with these buckets; what matches none of them is not limited."""
    always = {"default_value": {"numerator": 100}}
    return typed(
        CONFIG,
        stat_prefix="gateway",
        filter_enabled=always,
        filter_enforced=always,
        token_bucket={"max_tokens": _NO_LIMIT, "tokens_per_fill": _NO_LIMIT, "fill_interval": "1s"},
        descriptors=descriptors,
        max_dynamic_descriptors=_CLIENTS,
        response_headers_to_add=[{"header": {"key": "retry-after", "value": "1"}}],
        **more,
    )


def _of_service(route: Route) -> list[Message]:
    limit = route.settings.rate_limit
    entries = [{"key": "service", "value": route.service}]
    return [{"entries": entries, "token_bucket": bucket(limit)}] if limit else []


def _of_clients(route: Route) -> list[Message]:
    limit = route.settings.client_rate_limit
    if limit is None:
        return []
    # An entry without a value has a bucket for each value it meets.
    client = {"key": "client" if route.settings.api_keys else "remote_address"}
    entries = [{"key": "service", "value": route.service}, client]
    return [{"entries": entries, "token_bucket": bucket(limit)}]


def bucket(limit: RateLimit) -> Message:
    """Envoy fills in whole tokens, ten times a second where the rate allows it."""
    tokens = max(1, round(limit.per_second / 10))
    interval = tokens / limit.per_second
    return {"max_tokens": limit.burst, "tokens_per_fill": tokens, "fill_interval": f"{interval:.6f}s"}


def _constant(key: str, value: str) -> Message:
    return {"generic_key": {"descriptor_key": key, "descriptor_value": value}}

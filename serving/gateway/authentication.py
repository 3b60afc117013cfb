"""Who may ask a model whose spec says `api_keys`, and how often each of them: what Envoy's filters are told.

The keys and their clients' limits stand in two files that Envoy watches, apart from the routes: a new key
works without a restart, and no route's buckets are filled anew for it. A route of such a model turns the
first filter on; the client's name then travels in a header, for the log, for limits, and to the pod.
Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/api_key_auth_filter
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from model_store.durable import write_file
from serving.credentials import write_secret
from serving.gateway import api_keys, limits
from serving.gateway.api_keys import Client
from serving.gateway.xds import Message, discovered_filter, discovery, extension, named_extension, typed
from serving.home import Home

KEYS, RATES = "slipway.api_keys", "slipway.limits.api_keys"

_FILTER = "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth"
_MATCHED = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"
_SKIP: Message = {
    "action": extension("skip", typed("envoy.extensions.filters.common.matcher.action.v3.SkipFilter"))
}
_METHOD = extension(
    "method", typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=":method")
)


def filters(home: Home, source: Callable[[Path], Message]) -> list[Message]:
    """For the listener. Without a route that asks for keys they let everybody pass."""
    return [
        discovered_filter(KEYS, source(keys_file(home)), _MATCHED),
        discovered_filter(RATES, source(rates_file(home)), limits.CONFIG),
    ]


def required() -> dict[str, Message]:
    """A route's configuration, by filter: only a client with a key passes.

    A route that disables or enables a filter does so before the first filter runs, when a gRPC call may not
    have its route yet (`serving.gateway.grpc`). Matchers are asked when the filter's turn comes.
    """
    never = {"exact_match_map": {"map": {"": _SKIP}}}
    matcher = {"matcher_tree": {"input": _METHOD, **never}}
    return {KEYS: typed(f"{_MATCHED}PerRoute", xds_matcher=matcher)}


def keys_file(home: Home) -> Path:
    return home.envoy / "api-keys.json"


def rates_file(home: Home) -> Path:
    return home.envoy / "api-key-rates.json"


def publish(home: Home) -> None:
    """Tell Envoy of the clients there are now. Safe to repeat. Raises `Permanent` if they are unreadable."""
    with api_keys.held(home):
        clients = api_keys.clients_of(home)
        # A new key is never without its limit.
        write_file(rates_file(home), render_rates(clients))
        write_secret(keys_file(home), render_keys(clients).decode())


def render_keys(clients: Iterable[Client]) -> bytes:
    credentials = [{"key": key, "client": client.name} for client in clients for key in client.keys]
    config = typed(
        _FILTER,
        credentials=credentials,
        key_sources=[{"header": "x-api-key"}, {"header": "authorization"}],
        forwarding={"header": limits.CLIENT_HEADER, "hide_credentials": True},
    )
    unless_required = typed(
        _MATCHED, extension_config=extension(KEYS, config), xds_matcher={"on_no_match": _SKIP}
    )
    return discovery([named_extension(KEYS, unless_required)])


def render_rates(clients: Iterable[Client]) -> bytes:
    descriptors = [
        {"entries": [{"key": "client", "value": client.name}], "token_bucket": limits.bucket(client.limit)}
        for client in clients
        if client.limit
    ]
    counted = [{"actions": [limits.named_client()]}]
    return discovery([named_extension(RATES, limits.holding(descriptors, rate_limits=counted))])

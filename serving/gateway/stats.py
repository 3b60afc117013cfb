"""What others may ask of an Envoy that is not on their machine: counters and whether it is ready, by GET.

Its admin port ends Envoy for whoever asks, and shows the keys of clients: it stays on loopback.
Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/admin
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving.gateway.xds import Message, extension, typed
from serving.home import Home

_CLUSTER = "(admin)"
_ANSWERED = ("/clusters", "/stats", "/stats/prometheus", "/ready")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a bootstrap says of it. `metadata`: what Envoy tells whoever tells it."""

    metadata: dict[str, Any]
    listeners: list[Message]
    clusters: list[Message]


def asked_at(home: Home, address: str) -> Asked:
    """An Envoy that is reached at `address`; "": on this machine, where its admin port is asked."""
    ports = home.ports
    if not address:
        return Asked({"admin_port": ports.envoy_admin}, [], [])
    metadata = {"admin_host": _in_url(address), "admin_port": ports.envoy_stats}
    return Asked(metadata, [_listener(address, ports.envoy_stats)], [_cluster(ports.envoy_admin)])


def everywhere(address: str, port: int) -> Message:
    """On all interfaces, for the kind of address that this Envoy has."""
    return {"socket_address": {"address": "::" if ":" in address else "0.0.0.0", "port_value": port}}


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _listener(address: str, port: int) -> Message:
    host = {"name": "admin", "domains": ["*"], "routes": [_route(path) for path in _ANSWERED]}
    manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="stats",
        route_config={"name": "stats", "virtual_hosts": [host]},
        http_filters=[
            extension("envoy.filters.http.router", typed("envoy.extensions.filters.http.router.v3.Router"))
        ],
    )
    return {
        "name": "stats",
        "address": everywhere(address, port),
        "filter_chains": [{"filters": [extension("http", manager)]}],
        # It is asked while the gateway drains, too.
        "drain_type": "MODIFY_ONLY",
    }


def _route(path: str) -> Message:
    only_read = {"name": ":method", "string_match": {"exact": "GET"}}
    return {"match": {"path": path, "headers": [only_read]}, "route": {"cluster": _CLUSTER, "timeout": "5s"}}


def _cluster(port: int) -> Message:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    member = {"endpoint": {"address": address}}
    return {
        "name": _CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": _CLUSTER, "endpoints": [{"lb_endpoints": [member]}]},
    }

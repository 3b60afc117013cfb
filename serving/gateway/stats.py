"""What others may ask of an Envoy: counters and whether it is ready, by GET, on a port.

Its admin interface ends Envoy for whoever asks, and shows the keys of clients: it is a Unix socket of its
user's alone (docs/decisions/0150).
Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/admin
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.gateway.xds import Message, extension, typed
from serving.home import Home

_CLUSTER = "(admin)"
_ANSWERED = ("/clusters", "/stats", "/stats/prometheus", "/ready")


@dataclass(frozen=True, slots=True)
class AdminResources:
    """What a bootstrap says of it. `metadata`: what Envoy tells whoever tells it."""

    metadata: dict[str, Any]
    listeners: list[Message]
    clusters: list[Message]


def asked_at(home: Home, address: str) -> AdminResources:
    """An Envoy that is reached at `address`; "": on this machine."""
    port = home.ports.envoy_stats
    host = {"admin_host": (f"[{address}]" if ":" in address else address)} if address else {}
    return AdminResources(
        {**host, "admin_port": port}, [_listener(address, port)], [_cluster(home.envoy_admin)]
    )


def listening(address: str, port: int) -> Message:
    """On all interfaces where others reach this Envoy, at `address`; else on the machine's own."""
    everywhere = "::" if ":" in address else "0.0.0.0"
    return {"socket_address": {"address": everywhere if address else "127.0.0.1", "port_value": port}}


def private(socket: Path) -> Message:
    """For the user who runs this Envoy, and for nobody else."""
    return {"pipe": {"path": str(socket), "mode": 0o600}}


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
        "address": listening(address, port),
        "filter_chains": [{"filters": [extension("http", manager)]}],
        # It is asked while the gateway drains, too.
        "drain_type": "MODIFY_ONLY",
    }


def _route(path: str) -> Message:
    only_read = {"name": ":method", "string_match": {"exact": "GET"}}
    return {"match": {"path": path, "headers": [only_read]}, "route": {"cluster": _CLUSTER, "timeout": "5s"}}


def _cluster(socket: Path) -> Message:
    member = {"endpoint": {"address": {"pipe": {"path": str(socket)}}}}
    return {
        "name": _CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": _CLUSTER, "endpoints": [{"lb_endpoints": [member]}]},
    }

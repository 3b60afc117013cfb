"""Envoy clusters (CDS): one per service, and one more for the preview while a candidate is deployed.

A service's endpoints are watched in a file of their own, so that changing a weight touches nothing else.
The preview's are written into the cluster itself: a watch costs one inotify instance and Linux allows a
user 128 of them by default, so we spend one a service.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from serving.gateway.endpoints import address
from serving.gateway.xds import Message, discovery, typed, watched
from serving.types import Route

PREVIEW_SUFFIX = ".candidate"

# Envoy's defaults (1024 connections and requests, 3 retries at once) are for someone else's service. With 3
# retries a failing canary under load lets most of its errors through.
CONCURRENT_RETRIES = 8192
_NO_LIMIT = 1_000_000


def render(routes: Iterable[Route], *, endpoint_file: dict[str, Path]) -> bytes:
    """The CDS file for `routes`; `endpoint_file` names each service's EDS file."""
    resources: list[Message] = []
    for route in routes:
        resources.append(service_cluster(route.service, endpoint_file[route.service]))
        if route.candidate:
            resources.append(preview_cluster(route))
    return discovery(resources)


def service_cluster(service: str, endpoint_file: Path) -> Message:
    """Live traffic to `service`. Round robin, because least-request would bend the weights under load."""
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=service,
        type="EDS",
        eds_cluster_config={"eds_config": watched(endpoint_file)},
        lb_policy="ROUND_ROBIN",
        # Without this a removed endpoint keeps getting traffic until it fails a health check.
        ignore_health_on_host_removal=True,
        common_lb_config={
            # Only when every endpoint is unhealthy, try them all the same.
            "healthy_panic_threshold": {"value": 1},
            # By default Envoy collects changes of weight and health for a second before workers see them.
            "update_merge_window": "0s",
        },
        health_checks=[_HEALTH_CHECK],
        outlier_detection=_OUTLIERS,
        **_CONNECTIONS,
    )


def preview_cluster(route: Route) -> Message:
    """The candidate by header, at any weight. No health checks: its answers are what one wants to see."""
    name = route.service + PREVIEW_SUFFIX
    endpoints = route.candidate.endpoints if route.candidate else ()
    members = [{"endpoint": address(endpoint)} for endpoint in endpoints]
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=name,
        type="STATIC",
        load_assignment={"cluster_name": name, "endpoints": [{"lb_endpoints": members}]},
        **_CONNECTIONS,
    )


_CONNECTIONS: Message = {
    "connect_timeout": "0.5s",
    "circuit_breakers": {
        "thresholds": [
            {
                "max_connections": _NO_LIMIT,
                "max_pending_requests": _NO_LIMIT,
                "max_requests": _NO_LIMIT,
                "max_retries": CONCURRENT_RETRIES,
            }
        ]
    },
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            common_http_protocol_options={"idle_timeout": "30s"},
            explicit_http_config={"http_protocol_options": {}},
        )
    },
}

_HEALTH_CHECK: Message = {
    "timeout": "2s",
    "interval": "1s",
    "interval_jitter_percent": 20,
    "no_traffic_interval": "1s",
    "no_traffic_healthy_interval": "5s",
    "unhealthy_threshold": 3,
    "healthy_threshold": 1,
    "http_health_check": {"path": "/v2/health/ready"},
}

# Only an endpoint nobody can connect to is set aside, so that retries reach the other arm even when the only
# stable pod dies. Errors that an endpoint answers never eject it: that would hide them from the guard.
_OUTLIERS: Message = {
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": 3,
    "enforcing_consecutive_local_origin_failure": 100,
    "enforcing_consecutive_5xx": 0,
    "enforcing_consecutive_gateway_failure": 0,
    "enforcing_success_rate": 0,
    "enforcing_local_origin_success_rate": 0,
    "enforcing_failure_percentage": 0,
    "enforcing_failure_percentage_local_origin": 0,
    "interval": "0.5s",
    "base_ejection_time": "1s",
    "max_ejection_time": "2s",
    "max_ejection_percent": 100,
}

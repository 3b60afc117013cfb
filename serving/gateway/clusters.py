"""Envoy clusters (CDS): what a route of a service can name.

- `<service>`: live traffic by weight.
- `<service>.stable`: only the stable version's endpoints, for repeats.
- `<service>.retrying`: the first attempt from the first, every other repeat from the second.
- `<service>.candidate`: the preview, while a candidate is deployed.
- `<service>.streams`: the stable version's endpoints again, for streams and reads, which no verdict counts; a
  first version's while it is the candidate, so that its promotion takes no cluster away.
- `(any)`: all of those, one after the other, for what names no model: any pod can answer it.

Endpoints are told apart from their cluster (EDS, `serving.gateway.endpoints`), so that a pod that moves
replaces no cluster, whose counters, connections and dead endpoints Envoy would forget with it. Where that
costs a file to watch, those that no verdict counts hold theirs (`serving.gateway.delivery`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from serving.envoy_names import (
    PREVIEW_SUFFIX,
    RETRYING_SUFFIX,
    STABLE_SUFFIX,
    STREAMS_SUFFIX,
)
from serving.gateway import endpoints
from serving.gateway.xds import Message, discovery, extension, typed
from serving.types import Route

# Where Envoy finds the endpoints of the cluster of this name; None: in the cluster.
Source = Callable[[str], Message | None]

# No service can have these names.
ANY, _NOBODY = "(any)", "(nobody)"

# Attempts in a row that reach nobody; then an endpoint is set aside.
_UNREACHED = 2

# Repeats after the first attempt.
RETRIES = 3
# Beside a candidate each attempt that helps set a dead stable pod aside, with the repeat on stable behind it,
# and one more pair, which meets who is left: so a caller who is alone loses nothing either. Always pairs, for
# the judge counts one repeat on stable for each failure of the candidate.
RETRIES_BESIDE_A_CANDIDATE = 2 * _UNREACHED + 1

# Envoy's defaults (1024 connections and requests, 3 retries at once) are for someone else's service. With 3
# retries a failing canary under load lets most of its errors through.
CONCURRENT_RETRIES = 8192
_NO_LIMIT = 1_000_000

# Weights have two decimals of a percent; Maglev wants a prime.
_SHARES = 10_007


def render(routes: Iterable[Route], source: Source) -> bytes:
    """The CDS file for `routes`."""
    resources: list[Message] = []
    for route in routes:
        resources.append(service_cluster(route, source))
        resources.append(plain_cluster(route, STABLE_SUFFIX, source))
        resources.append(retrying_cluster(route.service))
        if route.stable or route.candidate:
            resources.append(streams_cluster(route, source))
        if route.candidate:
            resources.append(plain_cluster(route, PREVIEW_SUFFIX, source))
    return discovery(with_any(resources))


def with_any(resources: Iterable[Message]) -> list[Message]:
    """`resources` and the cluster that asks the first of their streams' clusters that can be reached."""
    known = [cluster for cluster in resources if cluster["name"] != ANY]
    streams = [cluster["name"] for cluster in known if cluster["name"].endswith(STREAMS_SUFFIX)]
    # It has to have a member. One that does not exist has no endpoint either.
    config = typed("envoy.extensions.clusters.aggregate.v3.ClusterConfig", clusters=streams or [_NOBODY])
    found = typed(
        "envoy.config.cluster.v3.Cluster",
        name=ANY,
        lb_policy="CLUSTER_PROVIDED",
        cluster_type=extension("envoy.clusters.aggregate", config),
        **_CONNECTIONS,
    )
    return [*known, found]


def service_cluster(route: Route, source: Source) -> Message:
    """Live traffic, each request to a random arm by weight (docs/decisions/0031).

    Maglev without a hash is Envoy's weighted random choice. Least-request would bend the weights under load;
    round robin gives an arm's turn away when a request is set aside or repeated.
    """
    return {
        **plain_cluster(route, "", source),
        "lb_policy": "MAGLEV",
        "maglev_lb_config": {"table_size": _SHARES},
        **_WITHOUT_THE_DEAD,
    }


def retrying_cluster(service: str) -> Message:
    """Asks stable what the first attempt could not answer, whatever the weights are.

    Every other repeat goes to live traffic again, for the case that it is stable that has died: its endpoint
    is set aside there after some failures, and the candidate answers.
    """
    pairs = [service, service + STABLE_SUFFIX] * (_UNREACHED + 1)
    config = typed(
        "envoy.extensions.clusters.composite.v3.ClusterConfig", clusters=[{"name": name} for name in pairs]
    )
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=service + RETRYING_SUFFIX,
        # Its statistics and log lines are the service's.
        alt_stat_name=service,
        lb_policy="CLUSTER_PROVIDED",
        cluster_type=extension("envoy.clusters.composite", config),
        **_CONNECTIONS,
    )


def streams_cluster(route: Route, source: Source) -> Message:
    """Stable's endpoints without those that cannot be reached, or say that they are not ready.

    Not the cluster for repeats: what is counted there is stable's traffic, and streams, of which the
    candidate gets none, would make the candidate's look lost.
    """
    return {**plain_cluster(route, STREAMS_SUFFIX, source), **_WITHOUT_THE_DEAD}


def plain_cluster(route: Route, suffix: str, source: Source) -> Message:
    """Endpoints without health checks: whoever is sent here has no other place to go."""
    name = route.service + suffix
    found = source(name)
    if found is None:
        held: Message = {"type": "STATIC", "load_assignment": endpoints.of_arm(route, suffix)}
    else:
        held = {"type": "EDS", "eds_cluster_config": {"eds_config": found}}
    return typed("envoy.config.cluster.v3.Cluster", name=name, **held, **_CONNECTIONS)


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
            # gRPC comes and goes as HTTP/2, the rest as HTTP/1.1, to one port of the same endpoints: what is
            # counted of them, and what sets them aside, is the same for both.
            use_downstream_protocol_config={"http_protocol_options": {}, "http2_protocol_options": {}},
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
# stable pod dies. Errors that an endpoint answers never eject it: that would hide them from the judge.
_OUTLIERS: Message = {
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": _UNREACHED,
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

_WITHOUT_THE_DEAD: Message = {
    # Without this a removed endpoint keeps getting traffic until it fails a health check.
    "ignore_health_on_host_removal": True,
    "common_lb_config": {
        # Only when every endpoint is unhealthy, try them all the same.
        "healthy_panic_threshold": {"value": 1},
        # By default Envoy collects changes of weight and health for a second before workers see them.
        "update_merge_window": "0s",
    },
    "health_checks": [_HEALTH_CHECK],
    "outlier_detection": _OUTLIERS,
}

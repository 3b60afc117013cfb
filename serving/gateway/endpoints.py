"""One service's endpoints with their weights (EDS), with the route that they were made of; and those of each
arm alone, which follow from it.

The whole `Route` travels as metadata in the file that Envoy reads, so what we believe and what Envoy does
cannot differ. Weights, priorities and the canary mark follow from it:

- candidate below 100 %: both arms in priority 0, weighted
- candidate at 100 %: the candidate in priority 0, stable in priority 1, where all traffic goes when no
  candidate endpoint is healthy
- candidate at 0 %: only stable (Envoy has no weight 0)
"""

from __future__ import annotations

from math import gcd

import orjson

from serving.envoy_names import STABLE_SUFFIX, STREAMS_SUFFIX
from serving.gateway.xds import Message, discovery, seconds, typed
from serving.types import Arm, Deployment, Endpoint, Route, TrafficSplit

RECORD = "slipway"

# Envoy's timers may be some milliseconds early.
_NEARLY = 0.9


def render(route: Route) -> bytes:
    """The EDS file of `route`."""
    levels = _priorities(route)
    localities = [{"priority": level, "lb_endpoints": members} for level, members in enumerate(levels)] or [
        {"lb_endpoints": []}
    ]
    localities[0]["metadata"] = {"filter_metadata": {RECORD: route.to_json()}}
    assignment = typed(
        "envoy.config.endpoint.v3.ClusterLoadAssignment", cluster_name=route.service, endpoints=localities
    )
    return discovery([assignment], version=route.revision)


def render_arm(route: Route, suffix: str) -> bytes:
    """The EDS file of the cluster with this suffix, which holds one arm (`serving.gateway.clusters`)."""
    return discovery([typed("envoy.config.endpoint.v3.ClusterLoadAssignment", **of_arm(route, suffix))])


def of_arm(route: Route, suffix: str) -> Message:
    """An arm's endpoints. One that is not there has none: whoever still has its cluster is told so."""
    arms = {STABLE_SUFFIX: route.stable, STREAMS_SUFFIX: route.stable or route.candidate}
    deployment = arms.get(suffix, route.candidate)
    members = endpoints_of(route, deployment) if deployment else []
    return {"cluster_name": route.service + suffix, "endpoints": [{"lb_endpoints": members}]}


def parse(content: bytes) -> Route:
    """The route a file made by `render` records."""
    locality = orjson.loads(content)["resources"][0]["endpoints"][0]
    return Route.from_json(locality["metadata"]["filter_metadata"][RECORD])


def is_told_of_keys(content: bytes) -> bool:
    """Whether a record says if the gateway is to ask for API keys. Before it could, pods asked for them."""
    locality = orjson.loads(content)["resources"][0]["endpoints"][0]
    return "api_keys" in locality["metadata"]["filter_metadata"][RECORD]


def address(endpoint: Endpoint) -> Message:
    """Envoy's way to write host and port."""
    return {"address": {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}}


def arm_weights(split: TrafficSplit, *, stable: int, candidate: int) -> tuple[int, int]:
    """Weight of each stable and of each candidate endpoint, given how many there are (both > 0).

    Integers >= 1 in Envoy; percentages have two decimals. The sum over an arm is the arm's share.
    """
    ours, theirs = round(split.stable * 100) * candidate, round(split.candidate * 100) * stable
    shared = gcd(ours, theirs) or 1
    return ours // shared, theirs // shared


def endpoints_of(route: Route, deployment: Deployment, *, weight: int = 1) -> list[Message]:
    """Envoy's view of a deployment's endpoints, labelled with the arm they belong to."""
    arm = Arm.STABLE if deployment == route.stable else Arm.CANDIDATE
    # `serving.gateway.attempts` reads them from the endpoint that was asked.
    labels = {
        "arm": arm.value,
        "slow": seconds(route.settings.latency_objective_ms / 1000),
        "limit": seconds(_NEARLY * route.settings.timeout_ms / 1000),
    }
    if arm is Arm.CANDIDATE and route.settings.idempotent and route.stable:
        labels["repeats"] = Arm.STABLE.value
    canary = {"canary": arm is Arm.CANDIDATE}
    metadata = {"filter_metadata": {"envoy.lb": canary, RECORD: labels}}
    return [
        {"endpoint": address(endpoint), "load_balancing_weight": weight, "metadata": metadata}
        for endpoint in deployment.endpoints
    ]


def _priorities(route: Route) -> list[list[Message]]:
    stable = route.stable
    candidate = route.candidate if route.split.candidate > 0 else None
    if not stable or not candidate:
        return [endpoints_of(route, alone) for alone in (stable, candidate) if alone]
    if route.split.stable == 0:
        return [endpoints_of(route, candidate), endpoints_of(route, stable)]
    ours, theirs = arm_weights(route.split, stable=len(stable.endpoints), candidate=len(candidate.endpoints))
    return [
        endpoints_of(route, stable, weight=ours) + endpoints_of(route, candidate, weight=theirs),
    ]

"""Which pods Prometheus should scrape: those that stand in a route, wherever they run."""

from __future__ import annotations

from typing import Any

from model_store.errors import SlipwayError
from serving.gateway.router.base import TrafficRouter
from serving.types import Route


def targets(router: TrafficRouter) -> list[dict[str, Any]]:
    """All routes' endpoints in Prometheus' HTTP service discovery format, a group per deployment.

    A service whose route cannot be read is left out: one broken file must not blind us to all others.
    https://prometheus.io/docs/prometheus/latest/http_sd/
    """
    groups = []
    for service in router.services():
        try:
            groups += _groups(router.read(service))
        except SlipwayError:
            continue
    return groups


def _groups(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "targets": [str(endpoint) for endpoint in deployment.endpoints],
            "labels": {"service": route.service, "slot": str(deployment.slot)},
        }
        for deployment in (route.stable, route.candidate)
        if deployment
    ]

"""Envoy's clusters, the endpoints of each arm and the route table, made from all records of routes.

A record that cannot be read must not cost its service what the gateway has of it, nor keep the others' from
being made: what was derived of it before is taken over from the files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import orjson

from model_store.durable import write_file
from serving import envoy_names
from serving.gateway import clusters, endpoints, methods, readiness, routes
from serving.gateway.paths import assignment_file, clusters_file, routes_file
from serving.gateway.xds import Message, discovery
from serving.home import Home
from serving.types import Route

_FILTERS = "typed_per_filter_config"

_Keep = Callable[[bytes, Path, Collection[str]], bytes]

log = logging.getLogger(__name__)


def derive(
    home: Home,
    known: list[Route],
    unread: Collection[str],
    *,
    arms_of: Collection[str],
    source: clusters.Source,
) -> None:
    """Write the files where they differ: the arms' endpoints of the services in `arms_of`, then the clusters
    that take theirs from there, then who names these. Of services in `unread`, what is there stays."""
    for route in known:
        if route.service in arms_of:
            _derive_arms(home, route, source)
    made = clusters.render(known, source)
    _write_if_changed(clusters_file(home), _with_kept(_with_clusters, made, clusters_file(home), unread))
    made = routes.render(known)
    _write_if_changed(routes_file(home), _with_kept(_with_routes, made, routes_file(home), unread))
    made = readiness.render(readiness.services_in(known))
    ready_file = readiness.file(home)
    _write_if_changed(ready_file, _with_kept(_with_services, made, ready_file, unread))


def _derive_arms(home: Home, route: Route, source: clusters.Source) -> None:
    for suffix in envoy_names.ASSIGNED_SUFFIXES:
        if source(route.service + suffix):
            path = assignment_file(home, route.service + suffix)
            _write_if_changed(path, endpoints.render_arm(route, suffix))


def _with_kept(keep: _Keep, made: bytes, path: Path, unread: Collection[str]) -> bytes:
    """What was made of the others must not wait for a file that is no longer one of ours."""
    if not unread:
        return made
    try:
        return keep(made, path, unread)
    except (ValueError, LookupError, TypeError, AttributeError) as problem:
        log.warning("%s is not Slipway's: of %s nothing is kept: %r", path, ", ".join(unread), problem)
        return made


def _with_clusters(made: bytes, path: Path, unread: Collection[str]) -> bytes:
    kept = [cluster for cluster in _resources(path) if _of_cluster(cluster) in unread]
    if not kept:
        return made
    ours = [cluster for cluster in orjson.loads(made)["resources"] if cluster["name"] != clusters.ANY]
    return discovery(clusters.with_any(sorted([*ours, *kept], key=_of_cluster)))


def _with_routes(made: bytes, path: Path, unread: Collection[str]) -> bytes:
    before = [host for table in _resources(path) for host in table.get("virtual_hosts", ())]
    if not before:
        return made
    tables = orjson.loads(made)["resources"]
    host = tables[0]["virtual_hosts"][0]
    kept = [route for route in before[0]["routes"] if routes.service_of_route(route) in unread]
    first = len(methods.refusals())
    refusals, rest = host["routes"][:first], host["routes"][first:]
    ours = [route for route in rest if routes.service_of_route(route)]
    others = [route for route in rest if not routes.service_of_route(route)]
    known = sorted([*ours, *kept], key=lambda route: routes.in_order_asked(routes.service_of_route(route)))
    host["routes"] = [*refusals, *known, *others]
    for name, config in before[0].get(_FILTERS, {}).items():
        _keep_buckets(host, name, config, unread)
    return discovery(tables)


def _with_services(made: bytes, path: Path, unread: Collection[str]) -> bytes:
    before = readiness.parse(path.read_bytes()) if path.exists() else []
    return readiness.render(sorted([*readiness.parse(made), *(name for name in before if name in unread)]))


def _keep_buckets(host: Message, name: str, config: Message, unread: Collection[str]) -> None:
    kept = [bucket for bucket in config["descriptors"] if _of_bucket(bucket) in unread]
    if kept:
        into = host.setdefault(_FILTERS, {}).setdefault(name, {**config, "descriptors": []})
        into["descriptors"] = sorted([*into["descriptors"], *kept], key=_of_bucket)


def _of_cluster(cluster: Message) -> str:
    return envoy_names.service_of(cluster["name"])


def _of_bucket(bucket: Message) -> str:
    return str(bucket["entries"][0]["value"])


def _resources(path: Path) -> Iterable[Any]:
    try:
        return list(orjson.loads(path.read_bytes())["resources"])
    except FileNotFoundError:
        return []


def _write_if_changed(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        write_file(path, content)

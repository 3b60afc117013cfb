"""What is to be told, read from the home's files (`serving.gateway.router.derived`): whoever writes them,
whichever server reads them, Envoys are told the same.

A file that is torn, or says what Envoy would not understand, changes nothing: what was read before stays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

import orjson

from model_store.errors import SlipwayError
from serving.envoy_names import service_of
from serving.gateway import authentication, preview, readiness
from serving.gateway.delivery.ads.messages import CLUSTERS, ENDPOINTS, ROUTES, Encoder, name_of
from serving.gateway.delivery.ads.state import Resource, State
from serving.gateway.endpoints import RECORD
from serving.gateway.paths import clusters_file, routes_file
from serving.gateway.routes import service_of_route
from serving.gateway.xds import Message, version_of
from serving.home import Home

# Beside its endpoints a service's folder has the way back, which is told to nobody (`..router.envoy_file`).
_ASSIGNMENTS = ("endpoints.json", "stable.json", "streams.json", "candidate.json")

log = logging.getLogger(__name__)

_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _File:
    stamp: _Stamp
    resources: tuple[Resource, ...]
    revision: tuple[str, int] | None = None


class GatewayFiles:
    """The files of one home. `read` is cheap for what has not changed."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._encoder = Encoder()
        self._files: dict[Path, _File] = {}
        self._encoded: dict[tuple[str, str], Resource] = {}

    def read(self, changed: Set[Path] | None = None) -> State | None:
        """All that is to be told; None while not even that much is known.

        `changed`: the folders to look into again; None: all.
        """
        before = self._files
        self._files = {} if changed is None else dict(before)
        for path in self._paths(changed):
            if found := self._file(path, before.get(path)):
                self._files[path] = found
            else:
                self._files.pop(path, None)
        if not {clusters_file(self._home), routes_file(self._home)} <= self._files.keys():
            return None
        resources = [each for file in self._files.values() for each in file.resources]
        self._encoded = {(each.type_url + each.name, each.version): each for each in resources}
        return State.of(resources, dict(file.revision for file in self._files.values() if file.revision))

    def _paths(self, folders: Set[Path] | None) -> Iterator[Path]:
        if folders is None or self._home.envoy in folders:
            yield from (clusters_file(self._home), routes_file(self._home), readiness.file(self._home))
            yield from (authentication.keys_file(self._home), authentication.rates_file(self._home))
            yield preview.file(self._home)
        for folder in self._home.routes.glob("*/") if folders is None else folders:
            if folder.parent == self._home.routes:
                yield from (folder / name for name in _ASSIGNMENTS)

    def _file(self, path: Path, before: _File | None) -> _File | None:
        try:
            stat = path.stat()
            stamp = stat.st_ino, stat.st_mtime_ns, stat.st_size
            if before and before.stamp == stamp:
                return before
            return self._parsed(stamp, path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, SlipwayError, ValueError, LookupError, TypeError, AttributeError) as problem:
            log.warning("%s stays as it was told to Envoys: %s", path, problem)
            return before

    def _parsed(self, stamp: _Stamp, content: bytes) -> _File:
        found: list[Message] = orjson.loads(content)["resources"]
        return _File(stamp, tuple(map(self._resource, found)), _revision(found))

    def _resource(self, found: Message) -> Resource:
        name, digest = name_of(found), version_of(found)
        type_url = str(found["@type"])
        if known := self._encoded.get((type_url + name, digest)):
            return known
        return Resource(type_url, name, self._encoder.encode(found), digest, _digests(found, digest))


def _revision(resources: Iterable[Message]) -> tuple[str, int] | None:
    """The service and revision of the route whose record this is; None for other files."""
    for each in resources:
        if each["@type"] == ENDPOINTS and each["endpoints"]:
            record = each["endpoints"][0].get("metadata", {}).get("filter_metadata", {}).get(RECORD)
            if record:
                return str(record["service"]), int(record["revision"])
    return None


def _digests(resource: Message, digest: str) -> dict[str, str]:
    if resource["@type"] in (CLUSTERS, ENDPOINTS):
        return {service_of(name_of(resource)): digest}
    if resource["@type"] != ROUTES:
        return {}
    found: dict[str, list[str]] = {}
    for route in resource["virtual_hosts"][0]["routes"]:
        found.setdefault(service_of_route(route), []).append(version_of(route))
    return {service: version_of(versions) for service, versions in found.items() if service}

"""One Envoy on this machine, which watches the files."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from serving.envoy_names import RESERVED_SUFFIXES, STABLE_SUFFIX
from serving.gateway.delivery.base import Nobody, Proxy, ProxyState, Server, always, lacking
from serving.gateway.paths import assignment_file, clusters_file, routes_file
from serving.gateway.watches import require_spare
from serving.gateway.xds import Message, version_of, watched
from serving.home import Home
from serving.sockets import UnixConnection
from serving.types import Route

_ANSWERS_WITHIN_SECONDS = 0.5
_VERSION = "version_text"
_CDS, _RDS = "cluster_manager.cds", "http.gateway.rds.models"
_LOG_BYTES = 64 * 1024


class Files:
    """`Delivery` by files."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def source(self, path: Path) -> Message:
        return watched(path)

    def endpoints(self, cluster: str) -> Message | None:
        """Every watched file costs Envoy an inotify instance, of which a user has 128 by default: so only
        what a verdict counts has one (docs/decisions/0132)."""
        if cluster.endswith(RESERVED_SUFFIXES) and not cluster.endswith(STABLE_SUFFIX):
            return None
        return self.source(assignment_file(self._home, cluster))

    def servers(self) -> tuple[Message, list[Message]]:
        return {}, []

    def server(self, serves: Callable[[], bool] = always) -> Server:
        return Nobody()

    def require_room(self, before: Route, after: Route) -> None:
        """Envoy aborts when Linux lets it watch no more."""
        if before.revision == 0:
            require_spare()

    def proxies(self, services: Iterable[str] | None = None) -> list[Proxy]:
        """The one, as far as it can tell: which versions of the files it took.

        One that does not run is not there: it reads the files when it starts. One that does not answer has
        taken nothing.
        """
        try:
            versions = self._versions(services)
        except (ConnectionRefusedError, FileNotFoundError):
            return []
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as problem:
            return [self._proxy(ProxyState.STALE, f"its admin socket does not answer: {problem}", {})]
        behind = [path.name for path, stat in self._derived() if versions.get(stat) != _version_in(path)]
        if not behind:
            return [self._proxy(ProxyState.SYNCED, "", versions)]
        words = f"it has not taken {', '.join(behind)}"
        if refused := self._refusal():
            return [self._proxy(ProxyState.NACK, f"{words}: {refused}", versions)]
        return [self._proxy(ProxyState.STALE, words, versions)]

    def unacknowledged(self, route: Route) -> tuple[str, ...]:
        return lacking(self.proxies([route.service]), route)

    def _derived(self) -> list[tuple[Path, str]]:
        return [(clusters_file(self._home), _CDS), (routes_file(self._home), _RDS)]

    def _proxy(self, state: ProxyState, words: str, versions: dict[str, str]) -> Proxy:
        found = ((name.removeprefix("cluster."), version) for name, version in versions.items())
        revisions = {name: int(version) for name, version in found if version.isdecimal()}
        paths = [path for path, _ in self._derived() if path.exists()]
        changed = max((path.stat().st_mtime for path in paths), default=0.0)
        return Proxy(
            id="slipway",
            state=state,
            since=datetime.fromtimestamp(changed, UTC),
            words=words,
            version=version_of(sorted(versions.items())),
            revisions=revisions,
            admin=f"127.0.0.1:{self._home.ports.envoy_stats}",
        )

    def _versions(self, services: Iterable[str] | None) -> dict[str, str]:
        """By what is subscribed to. Of clusters only services' own, whose version is the route's revision."""
        named = ".+" if services is None else "|".join(map(re.escape, services))
        wanted = rf"^({re.escape(_CDS)}|{re.escape(_RDS)}|cluster\.({named}))\.{_VERSION}$"
        connection = UnixConnection(self._home.envoy_admin, timeout=_ANSWERS_WITHIN_SECONDS)
        with closing(connection):
            found = _asked(connection, f"/stats?format=json&type=TextReadouts&filter={quote(wanted)}")[
                "stats"
            ]
        versions = {each["name"].removesuffix(f".{_VERSION}"): str(each["value"]) for each in found}
        return {name: version for name, version in versions.items() if not name.endswith(RESERVED_SUFFIXES)}

    def _refusal(self) -> str:
        """The last that Envoy's log says of a file that it refuses."""
        try:
            with (self._home.logs / "envoy.log").open("rb") as log:
                log.seek(max(0, log.seek(0, 2) - _LOG_BYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line for line in reversed(lines) if "rejected" in line or "update failed" in line), "")


def _asked(connection: http.client.HTTPConnection, path: str) -> Any:
    connection.request("GET", path)
    return orjson.loads(connection.getresponse().read())


def _version_in(path: Path) -> str | None:
    try:
        return str(orjson.loads(path.read_bytes())["version_info"])
    except (OSError, ValueError, LookupError, TypeError):
        return None

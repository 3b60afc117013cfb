"""One Envoy on this machine, which watches the files."""

from __future__ import annotations

from pathlib import Path

from serving.envoy_names import RESERVED_SUFFIXES, STABLE_SUFFIX
from serving.gateway.bootstrap import assignment_file
from serving.gateway.watches import require_spare
from serving.gateway.xds import Message, watched
from serving.home import Home
from serving.types import Route


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

    def require_room(self, before: Route, after: Route) -> None:
        """Envoy aborts when Linux lets it watch no more."""
        if before.revision == 0:
            require_spare()

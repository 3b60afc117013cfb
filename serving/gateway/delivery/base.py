"""The port: where Envoys find what they are told."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from serving.gateway.xds import Message
from serving.types import Route


class Delivery(Protocol):
    """What is told stands in the home's files whoever delivers it (`serving.gateway.router.derived`), so the
    two ways cannot differ in what they say."""

    def source(self, path: Path) -> Message:
        """The config source by which Envoys are told what stands in `path`."""
        ...

    def endpoints(self, cluster: str) -> Message | None:
        """The config source of a cluster's endpoints; None: they stand in the cluster itself."""
        ...

    def require_room(self, before: Route, after: Route) -> None:
        """Raises `Permanent` if what a write adds to a route could not be delivered."""
        ...

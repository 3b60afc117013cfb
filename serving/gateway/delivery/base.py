"""The port: where Envoys find what they are told, and which of them have taken it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from serving.gateway.xds import Message
from serving.types import Route


class ProxyState(StrEnum):
    """`NACK`: it refuses what it was sent. `GONE`: it is not connected any more."""

    SYNCED = "SYNCED"
    STALE = "STALE"
    NACK = "NACK"
    GONE = "GONE"


@dataclass(frozen=True, slots=True)
class Proxy:
    """One Envoy. `since` when it is in this state, `words` why.

    `version` is of all that it has taken, `revisions` are the routes that it has, by service. `admin` is its
    admin port's address, if it tells it. `is_ready`: it may take traffic, and is waited for.
    """

    id: str
    state: ProxyState
    since: datetime
    words: str = ""
    version: str = ""
    revisions: Mapping[str, int] = field(default_factory=dict)
    admin: str = ""
    is_ready: bool = True

    def gone(self, words: str, *, at: datetime) -> Proxy:
        return replace(self, state=ProxyState.GONE, words=words, since=at, is_ready=False)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Proxy:
        since, state = datetime.fromisoformat(saved["since"]), ProxyState(saved["state"])
        return cls(**{**saved, "since": since, "state": state})


class Server(Protocol):
    """What tells Envoys, beside the process that moves traffic. Envoys keep what they were told while it is
    down."""

    @property
    def problem(self) -> str:
        """Why nobody is told any more, although it was started; "" while it goes on."""
        ...

    def start(self) -> None:
        """Raises `Permanent` if it cannot."""
        ...

    def stop(self) -> None: ...


def always() -> bool:
    """Of a server that is the only one."""
    return True


class Nobody:
    """The `Server` of a delivery that needs none."""

    problem = ""

    def start(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Nothing to do."""


class Delivery(Protocol):
    """What is told stands in the home's files whoever delivers it (`serving.gateway.router.derived`), so the
    two ways cannot differ in what they say."""

    def source(self, path: Path) -> Message:
        """The config source by which Envoys are told what stands in `path`."""
        ...

    def endpoints(self, cluster: str) -> Message | None:
        """The config source of a cluster's endpoints; None: they stand in the cluster itself."""
        ...

    def servers(self) -> tuple[Message, list[Message]]:
        """What an Envoy's bootstrap says of who tells it: dynamic resources, and static clusters."""
        ...

    def require_room(self, before: Route, after: Route) -> None:
        """Raises `Permanent` if what a write adds to a route could not be delivered."""
        ...

    def server(self, serves: Callable[[], bool] = always) -> Server:
        """For the process that is to tell Envoys. Of several, those whose `serves` is false send the Envoys
        that connect away, to the one that moves traffic."""
        ...

    def proxies(self, services: Iterable[str] | None = None) -> list[Proxy]:
        """The Envoys there are, with the revisions of these services (None: of all)."""
        ...

    def unacknowledged(self, route: Route) -> tuple[str, ...]:
        """Which Envoys that may take traffic have not taken the route, each in a sentence; none if all have.

        Never waits for one of them for longer than it takes to ask.
        """
        ...


def lacking(proxies: Iterable[Proxy], route: Route) -> tuple[str, ...]:
    """Those of `Delivery.unacknowledged`."""
    return tuple(
        _sentence(proxy, route)
        for proxy in proxies
        if proxy.is_ready and _revision(proxy, route) < route.revision
    )


def _revision(proxy: Proxy, route: Route) -> int:
    return proxy.revisions.get(route.service, 0)


def _sentence(proxy: Proxy, route: Route) -> str:
    has = _revision(proxy, route)
    why = f": {proxy.words}" if proxy.state is ProxyState.NACK else ""
    return (
        f"Envoy {proxy.id} has not acknowledged revision {route.revision} of {route.service} "
        f"(it has {has or 'none'}, {proxy.state} since {proxy.since:%H:%M:%S}){why}"
    )

"""Which Envoys one server has, and what each has taken."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from serving.gateway.delivery.ads import proxies_file
from serving.gateway.delivery.ads.state import State
from serving.gateway.delivery.ads.stream import DiscoveryRequest, DiscoveryStream
from serving.gateway.delivery.base import Proxy, ProxyState
from serving.home import Home

# Who was there before a server's start and has not come back by then is gone.
_COMES_BACK_WITHIN = timedelta(seconds=15)
_SHOWN_AFTER_IT_LEFT = timedelta(minutes=10)
_SOON_SECONDS = 0.005

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class EnvoyConnection:
    """One Envoy's, from `since` on. `id` and `admin`, its admin port's address, are what it says itself."""

    peer: str
    since: datetime
    id: str = ""
    admin: str = ""
    stream: DiscoveryStream = field(default_factory=DiscoveryStream)
    state: ProxyState = ProxyState.STALE
    state_since: datetime = field(default_factory=lambda: datetime.now(UTC))

    def introduced(self, node: Any) -> None:
        self.id, told = str(node.id), node.metadata.fields
        port = told["admin_port"].number_value if "admin_port" in told else 0
        # Who comes through a proxy, or another's address, says its own.
        host = told["admin_host"].string_value if "admin_host" in told else _host(self.peer)
        self.admin = f"{host}:{port:.0f}" if port else ""

    def heard(self, request: DiscoveryRequest, state: State) -> None:
        self.stream.heard(request, state)

    def seen(self, state: State) -> Proxy:
        """As it is now."""
        stream = self.stream
        is_behind = stream.is_waited_for or bool(_behind(stream, state))
        now = ProxyState.STALE if is_behind else ProxyState.SYNCED
        now = ProxyState.NACK if stream.refusal else now
        if now is not self.state:
            self.state, self.state_since = now, datetime.now(UTC)
        return Proxy(
            id=self.id or self.peer,
            state=now,
            since=self.state_since,
            words=stream.refusal or _behind(stream, state),
            version=stream.version(),
            revisions=dict(stream.revisions),
            admin=self.admin,
            is_ready=stream.is_ready,
        )


class Status:
    """Of all Envoys of one server. Not for use by several threads."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.state = State()
        self._there: dict[EnvoyConnection, None] = {}
        self._gone: dict[str, tuple[datetime, Proxy]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._began = datetime.now(UTC)
        self._before = {
            each.id: each for each in proxies_file.read(home) if each.state is not ProxyState.GONE
        }
        self._written: list[Proxy] | None = None

    def came(self, connection: EnvoyConnection) -> None:
        if connection not in self._there:
            log.info("the gateway's Envoy %s is there, from %s", connection.id, connection.peer)
        self._there[connection] = None
        self._gone.pop(connection.id, None)
        self._before.pop(connection.id, None)

    def left(self, connection: EnvoyConnection) -> None:
        if connection not in self._there:
            return
        del self._there[connection]
        log.warning("the gateway's Envoy %s has left", connection.id)
        if not any(each.id == connection.id for each in self._there):
            gone = connection.seen(self.state).gone("its connection ended", at=datetime.now(UTC))
            self._gone[connection.id] = datetime.now(UTC), gone
        self.write_soon()

    def write_soon(self) -> None:
        """What changes together is written once."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SOON_SECONDS, self.write)

    def write(self) -> None:
        """A disk that takes no file holds steps, and no rollback."""
        self._timer = None
        found = self.proxies()
        if found == self._written:
            return
        try:
            proxies_file.write(self._home, found)
            self._written = found
        except OSError as problem:
            log.warning("cannot write which Envoys have acknowledged what: %s", problem)

    def proxies(self) -> list[Proxy]:
        now = datetime.now(UTC)
        found = [each.seen(self.state) for each in self._there]
        if now - self._began < _COMES_BACK_WITHIN:
            found += self._before.values()
        found += [each for at, each in self._gone.values() if now - at < _SHOWN_AFTER_IT_LEFT]
        return sorted(found, key=lambda each: each.id)


def _behind(stream: DiscoveryStream, state: State) -> str:
    """Which services' routes it has not taken, in words."""
    behind = sorted(
        name for name, revision in state.revisions.items() if stream.revisions.get(name) != revision
    )
    shown = ", ".join(behind[:3]) + (f" and {len(behind) - 3} more" if len(behind) > 3 else "")
    return f"it has not acknowledged {shown}" if behind else ""


def _host(peer: str) -> str:
    """Of gRPC's name for whoever connected, as `ipv4:127.0.0.1:4711`."""
    return peer.partition(":")[2].rpartition(":")[0].replace("%5B", "[").replace("%5D", "]")

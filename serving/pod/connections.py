"""The connections of one event loop, whoever answers what is asked on them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from model_store.errors import SlipwayError
from serving.pod.buffers import Buffers, OwnBuffers, scratch
from serving.pod.grpc.connection import GrpcConnection
from serving.pod.grpc.header_blocks import Headers
from serving.pod.grpc.stream import Stream
from serving.pod.held import HeldBytes
from serving.pod.http.connection import Connection
from serving.pod.http.exchange import Exchange
from serving.pod.http.heads import Heads

log = logging.getLogger("slipway.pod")

_ARRIVAL_SECONDS = 20.0
# Longer than Envoy's one hour, so that the pod is never the one to close an idle connection.
_IDLE_SECONDS = 3900.0


class Calls(Protocol):
    """What becomes of gRPC calls."""

    def open(self, connection: GrpcConnection, number: int, headers: Headers, window: int) -> Stream:
        """A call's stream, with its method."""
        ...


class Connections:
    """Opens, limits, sweeps and drains them. `dispatch` is called for each request that has arrived whole."""

    def __init__(
        self,
        calls: Calls,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        max_body_bytes: int,
        max_connections: int,
        held: HeldBytes | None = None,
        buffers: Buffers | None = None,
    ) -> None:
        self.loop, self.clock, self.max_body_bytes = loop, clock, max_body_bytes
        self.buffers, self.scratch = buffers or OwnBuffers(), scratch()
        self._calls, self._max_connections = calls, max_connections
        self.held = held or HeldBytes(max_body_bytes)
        self.heads = Heads()
        self._connections: set[Connection | GrpcConnection] = set()
        self.is_draining = False

    def dispatch(self, exchange: Exchange) -> None:
        """Answer now or later."""
        raise NotImplementedError

    def refusal(
        self, target: bytes, headers: dict[bytes, bytes], start: bytes | memoryview, length: int
    ) -> SlipwayError | None:
        """Why a request will be refused whose body begins so: the rest of it need not be kept."""
        raise NotImplementedError

    def broke(self, exchange: Exchange) -> None:
        """A bug of ours, met while dispatching: log it, and do not leave the client hanging."""
        log.exception("request to %r broke the pod's own code", exchange.target[:200])
        exchange.connection.broke(exchange)

    def opened(self, connection: Connection) -> None:
        """A connection was made; one too many is told so and closed."""
        if len(self._connections) >= self._max_connections:
            connection.refuse(503, "too many connections")
            return
        self._connections.add(connection)

    def closed(self, connection: Connection | GrpcConnection) -> None:
        self._connections.discard(connection)

    @property
    def is_quiet(self) -> bool:
        return all(connection.is_idle for connection in self._connections)

    @property
    def has_newcomers(self) -> bool:
        """Whether there is a connection on which somebody may ask who does not know that the pod leaves."""
        return any(connection.may_ask for connection in self._connections)

    @property
    def connections(self) -> int:
        return len(self._connections)

    def sweep(self) -> None:
        """Close connections whose request arrives too slowly, and those idle for very long."""
        now = self.clock()
        self.heads.sweep()
        for connection in list(self._connections):
            connection.sweep(now, _ARRIVAL_SECONDS, _IDLE_SECONDS)

    def drain(self) -> None:
        """Answer what comes, and ask every client to leave."""
        self.is_draining = True
        for connection in list(self._connections):
            connection.drain()

    def switch_to_grpc(self, connection: Connection, data: bytes) -> None:
        """This connection turned out to be HTTP/2."""
        grpc = GrpcConnection(self, self._calls, connection.transport)
        connection.transport.set_protocol(grpc)
        self._connections.discard(connection)
        self._connections.add(grpc)
        grpc.data_received(data)

    def close_idle(self) -> None:
        """For the end of a drain: nobody is waiting on these."""
        for connection in list(self._connections):
            if connection.is_idle:
                connection.leave()

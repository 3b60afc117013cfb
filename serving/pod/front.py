"""Routes exchanges to what answers them, and keeps the connections in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from model_store.errors import SlipwayError
from serving.pod.grpc.connection import GrpcConnection
from serving.pod.grpc.service import Service
from serving.pod.held import HeldBytes
from serving.pod.http.connection import Connection
from serving.pod.http.exchange import Exchange
from serving.pod.http.heads import Heads
from serving.pod.http.infer import find_refusal, infer
from serving.pod.http.routes import Routes
from serving.pod.repository import Repository

log = logging.getLogger("slipway.pod")

_ARRIVAL_SECONDS = 20.0
# Longer than Envoy's one hour, so that the pod is never the one to close an idle connection.
_IDLE_SECONDS = 3900.0


class Front:
    """All connections of the pod. `dispatch` is called for each request that has arrived whole."""

    def __init__(
        self,
        repository: Repository,
        routes: Routes,
        service: Service,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        max_body_bytes: int,
        max_connections: int,
    ) -> None:
        self.loop, self.clock, self.max_body_bytes = loop, clock, max_body_bytes
        self._repository, self._routes, self._service = repository, routes, service
        self._max_connections = max_connections
        self.held = HeldBytes(max_body_bytes)
        self.heads = Heads()
        self._connections: set[Connection | GrpcConnection] = set()
        self.is_draining = False

    def dispatch(self, exchange: Exchange) -> None:
        """Answer now or later. Infer requests of loaded models take the short way."""
        if self.is_draining:
            exchange.keep_alive = False
        model = self._repository.by_target.get(exchange.target)
        if model is not None and exchange.method == b"POST":
            infer(exchange, model, self.max_body_bytes)
            return
        self._routes.answer(exchange)

    def refusal(
        self, target: bytes, headers: dict[bytes, bytes], start: bytes, length: int
    ) -> SlipwayError | None:
        """Why a request will be refused whose body begins so: the rest of it need not be kept."""
        model = self._repository.by_target.get(target)
        return find_refusal(model, headers, start, length) if model is not None else None

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
        grpc = GrpcConnection(self, self._service, connection.transport)
        connection.transport.set_protocol(grpc)
        self._connections.discard(connection)
        self._connections.add(grpc)
        grpc.data_received(data)

    def close_idle(self) -> None:
        """For the end of a drain: nobody is waiting on these."""
        for connection in list(self._connections):
            if connection.is_idle:
                connection.leave()

"""Routes exchanges to what answers them, and keeps the connections in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from model_store.errors import SlipwayError
from serving.pod.connections import Connections
from serving.pod.grpc.service import Service
from serving.pod.http.exchange import Exchange
from serving.pod.http.infer import find_refusal, infer
from serving.pod.http.routes import Routes
from serving.pod.repository import Repository


class Front(Connections):
    """All connections of the pod's own process."""

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
        super().__init__(
            service,
            loop=loop,
            clock=clock,
            max_body_bytes=max_body_bytes,
            max_connections=max_connections,
        )
        self._repository, self._routes, self.service = repository, routes, service

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
        self, target: bytes, headers: dict[bytes, bytes], start: bytes | memoryview, length: int
    ) -> SlipwayError | None:
        """Why a request will be refused whose body begins so: the rest of it need not be kept."""
        model = self._repository.by_target.get(target)
        return find_refusal(model, headers, start, length) if model is not None else None

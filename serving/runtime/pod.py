"""The pod's life: listen, load and warm, serve, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from serving.runtime.exposition import exposition
from serving.runtime.grpc.service import Service
from serving.runtime.http.connection import Connection
from serving.runtime.http.front import Front
from serving.runtime.http.routes import Routes
from serving.runtime.model import OpenedModel, ServedModel, Surroundings
from serving.runtime.repository import Repository

log = logging.getLogger("slipway.pod")


@dataclass(frozen=True, slots=True)
class PodOptions:
    """How a pod is started. `port` 0 takes a free one; times in seconds."""

    bundles: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int = 0
    slot: str = ""
    faults: str = ""
    max_body_bytes: int = 64 * 1024 * 1024
    max_connections: int = 4096
    drain_seconds: float = 20.0
    # After SIGTERM the pod goes on accepting for this long: callers learn of it only by its health answers.
    lame_duck_seconds: float = 0.5


class Pod:
    """One event loop, one process. `serve` returns when drained."""

    def __init__(self, options: PodOptions, loop: asyncio.AbstractEventLoop) -> None:
        self._options, self._loop, self._clock = options, loop, time.perf_counter
        self.repository = Repository(list(options.bundles), admit=self._admit, clock=self._clock)
        self._routes = Routes(self.repository, is_ready=lambda: self.is_ready, metrics=self._metrics)
        self.front = Front(
            self.repository,
            self._routes,
            Service(self.repository, is_ready=lambda: self.is_ready),
            loop=loop,
            clock=self._clock,
            max_body_bytes=options.max_body_bytes,
            max_connections=options.max_connections,
        )
        self._around = Surroundings(
            slot=options.slot,
            faults=options.faults,
            chance=random.Random(),
            loop=loop,
            clock=self._clock,
            relay=lambda name: self.repository.model(name, None),
        )
        self._stop = asyncio.Event()
        self.port = 0

    @property
    def is_ready(self) -> bool:
        return self.repository.is_ready and not self.front.is_draining

    def stop(self) -> None:
        """Begin to drain. Safe to call twice."""
        self._stop.set()

    async def serve(self) -> None:
        """Listen at once (live, not ready), load, serve until `stop`, drain.

        Raises `SlipwayError` when a bundle cannot be loaded, `OSError` when the port is taken.
        """
        server = await self._loop.create_server(
            lambda: Connection(self.front), self._options.host, self._options.port, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        sweeping = self._loop.create_task(self._sweep())
        try:
            await self.repository.load_all()
            log.info("ready on %s:%d", self._options.host, self.port)
            await self._stop.wait()
            await self._drain(server)
        finally:
            sweeping.cancel()
            server.close()

    async def _drain(self, server: asyncio.AbstractServer) -> None:
        self.front.drain()
        await asyncio.sleep(self._options.lame_duck_seconds)
        server.close()
        deadline = self._clock() + self._options.drain_seconds
        while not self.front.is_quiet and self._clock() < deadline:
            await asyncio.sleep(0.01)
        self.front.close_idle()
        await asyncio.sleep(0)
        log.info("drained")

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.front.sweep()

    def _admit(self, opened: OpenedModel) -> ServedModel:
        return ServedModel(opened, self._around)

    def _metrics(self) -> bytes:
        return exposition(self.repository.models, connections=self.front.connections, is_ready=self.is_ready)


async def run(options: PodOptions) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    pod = Pod(options, loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, pod.stop)
    await pod.serve()

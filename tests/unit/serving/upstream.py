"""A small HTTP server that behaves or misbehaves as told, to stand behind a real Envoy."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from serving.types import Deployment, DeploymentRef, Endpoint, Slot

LARGE = 20_000_000
_STATUSES = {"error": 500, "overloaded": 503, "malformed": 400, "oversized": 413, "refused": 400}


@dataclass
class Upstream:
    """One pod. `fault`: ok, error (500), overloaded (503), hang, reset, slow (0.2 s), unparsable, malformed
    (400), oversized (413), refused (400, and says that it is the model that refuses).

    After headers that promise a good answer: half and half_chunk (a part, then reset), stalled (a part, then
    nothing), trickle (a part, the rest 0.6 s later), large (all of 20 MB).

    One request in `every` meets it.
    """

    name: str
    fault: str = "ok"
    every: int = 1
    ready: bool = True
    answered: int = 0
    faulty: int = 0
    port: int = 0
    heads: list[str] = field(default_factory=list)
    _turn: Iterator[int] = field(default_factory=itertools.count)
    _server: asyncio.Server | None = None
    _connections: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Gone at once, as after kill -9: no listener, every connection reset."""
        if self._server:
            self._server.close()
        for writer in list(self._connections):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while await self._answer_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ", 2)[1].decode()
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if lengths:
            await reader.readexactly(int(lengths[0].split(b":")[1]))
        if path == "/v2/health/ready":
            return self._reply(writer, 200 if self.ready else 503)
        self.answered += 1
        self.heads.append(head.decode())
        if next(self._turn) % self.every or self.fault == "ok":
            return self._reply(writer, 200)
        self.faulty += 1
        return await self._misbehave(writer)

    async def _misbehave(self, writer: asyncio.StreamWriter) -> bool:
        if self.fault == "reset":
            writer.transport.abort()
            return False
        if self.fault == "unparsable":
            writer.write(b"\x16\x03\x01 what is this\r\n\r\n")
            return False
        if self.fault in ("half", "half_chunk", "stalled"):
            is_chunked = self.fault == "half_chunk"
            length = "transfer-encoding: chunked" if is_chunked else "content-length: 99"
            part = "1\r\n{\r\n" if is_chunked else "{"
            writer.write(f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n{part}".encode())
            await writer.drain()
            await asyncio.sleep(20 if self.fault == "stalled" else 0.02)
            writer.transport.abort()
            return False
        if self.fault == "trickle":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{")
            await asyncio.sleep(0.6)
            writer.write(b"}")
            return True
        if self.fault == "large":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % LARGE + b"y" * LARGE)
            return True
        if self.fault in ("hang", "slow"):
            await asyncio.sleep(0.2 if self.fault == "slow" else 20)
        refusal = "x-slipway-refused: model\r\n" if self.fault == "refused" else ""
        return self._reply(writer, _STATUSES.get(self.fault, 200), refusal)

    def _reply(self, writer: asyncio.StreamWriter, status: int, headers: str = "") -> bool:
        body = f'{{"from":"{self.name}"}}'.encode()
        headers += f"content-length: {len(body)}\r\ncontent-type: application/json\r\n"
        writer.write(f"HTTP/1.1 {status} X\r\n{headers}\r\n".encode() + body)
        return True


class Pods:
    """Upstreams on an event loop of their own thread, so that tests can block."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.all: list[Upstream] = []

    def start(self, name: str, *, fault: str = "ok", every: int = 1) -> Upstream:
        upstream = Upstream(name, fault, every)
        asyncio.run_coroutine_threadsafe(upstream.start(), self._loop).result(5)
        self.all.append(upstream)
        return upstream

    def kill(self, upstream: Upstream) -> None:
        asyncio.run_coroutine_threadsafe(upstream.stop(), self._loop).result(5)

    def revive(self, upstream: Upstream) -> None:
        asyncio.run_coroutine_threadsafe(upstream.start(), self._loop).result(5)


@contextmanager
def pods_running() -> Iterator[Pods]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    pods = Pods(loop)
    try:
        yield pods
    finally:
        for upstream in pods.all:
            pods.kill(upstream)
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def deployment(service: str, version: int, *upstreams: Upstream, slot: Slot = Slot.BLUE) -> Deployment:
    endpoints = tuple(upstream.endpoint for upstream in upstreams)
    return Deployment(DeploymentRef(service, slot, f"b{version}", version), endpoints)

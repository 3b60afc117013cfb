"""Pods for benchmarks: HTTP servers in a process of their own, each of which can be told to fail a share."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
BAD = b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


@dataclass(slots=True)
class Seen:
    """What one upstream did since it was last told its faults. Times are `time.monotonic()`, 0 for never."""

    answered: int = 0
    bad: int = 0
    first_bad_at: float = 0.0
    last_answer_at: float = 0.0


@dataclass(slots=True)
class _Server(asyncio.Protocol):
    """One upstream. Every request that is not for its health counts; `debt` spreads the bad ones evenly."""

    error_rate: float = 0.0
    how: str = "error"
    debt: float = 0.0
    seen: Seen = field(default_factory=Seen)

    def protocol(self) -> _Connection:
        return _Connection(self)

    def answer(self, path: bytes) -> bytes:
        if path == b"/v2/health/ready":
            return OK
        self.seen.answered += 1
        self.seen.last_answer_at = time.monotonic()
        self.debt += self.error_rate
        if self.debt < 1:
            return OK
        self.debt -= 1
        self.seen.bad += 1
        self.seen.first_bad_at = self.seen.first_bad_at or time.monotonic()
        return BAD


class _Connection(asyncio.Protocol):
    def __init__(self, server: _Server) -> None:
        self._server, self._received = server, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            _, _, length = head.partition(b"content-length:")
            size = end + 4 + int(length.split(b"\r\n")[0] or 0)
            if len(self._received) < size:
                return
            path = self._received.split(b" ", 2)[1]
            self._received = self._received[size:]
            self._give(self._server.answer(path))

    def _give(self, answer: bytes) -> None:
        assert isinstance(self._transport, asyncio.WriteTransport)
        if answer is OK or self._server.how == "error":
            self._transport.write(answer)
        elif self._server.how == "reset":
            self._transport.abort()


@dataclass(frozen=True, slots=True)
class Upstreams:
    """The process with the servers. `ports` are in the order they were asked for."""

    ports: list[int]
    _told: Connection

    def fail(self, index: int, error_rate: float, how: str = "error") -> None:
        """From now on `error_rate` of the answers of one server are bad; its counts begin again.

        `how`: error (a 500), reset (of the connection), hang (no answer at all).
        """
        self._ask(("fail", index, error_rate, how))

    def seen(self, index: int) -> Seen:
        answer = self._ask(("seen", index))
        assert isinstance(answer, Seen)
        return answer

    def _ask(self, message: object) -> object:
        self._told.send(message)
        return self._told.recv()


@contextmanager
def upstreams(count: int) -> Iterator[Upstreams]:
    """`count` servers on free ports of loopback."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(there, count), daemon=True)
    process.start()
    try:
        yield Upstreams(here.recv(), here)
    finally:
        process.terminate()
        process.join(5)


def _run(told: Connection, count: int) -> None:
    asyncio.run(_serve(told, count))


async def _serve(told: Connection, count: int) -> None:
    loop = asyncio.get_running_loop()
    servers = [_Server() for _ in range(count)]
    listeners = [await loop.create_server(server.protocol, "127.0.0.1", 0, backlog=512) for server in servers]
    told.send([listener.sockets[0].getsockname()[1] for listener in listeners])
    loop.add_reader(told.fileno(), lambda: _obey(told, servers))
    await asyncio.Event().wait()


def _obey(told: Connection, servers: list[_Server]) -> None:
    match told.recv():
        case ("fail", index, error_rate, how):
            servers[index].how = how
            servers[index].error_rate, servers[index].debt, servers[index].seen = error_rate, 1.0, Seen()
            servers[index].debt = 1.0 - error_rate
            told.send(None)
        case ("seen", index):
            told.send(servers[index].seen)

"""The pod's side of its readers: connections go to them, requests come from them, answers go back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from model_store.engines.errors import ModelFault
from model_store.errors import SlipwayError
from serving.pod.buffers import OwnBuffers
from serving.pod.front import Front
from serving.pod.grpc.stream import Stream
from serving.pod.held import BODIES
from serving.pod.http.connection import Connection
from serving.pod.http.exchange import Exchange
from serving.pod.readers.arena import Arena, create
from serving.pod.readers.channel import (
    ANSWER,
    ASK,
    BROKE,
    CLOSE,
    DRAIN,
    END,
    ENDED,
    FREE,
    GONE,
    MESSAGE,
    SEND,
    STATE,
    Channel,
    Record,
)
from serving.pod.readers.process import ReaderOptions

log = logging.getLogger("slipway.pod")

_AGAIN_SECONDS = 0.5
_END_SECONDS = 2.0


class _Asked(Exchange):
    """A request that a reader received."""

    __slots__ = ("key",)
    key: int


class _Carried:
    """What a call of a reader's connection looks to the pod as if it were here."""

    __slots__ = ("_reader", "is_half_closed")
    buffers = OwnBuffers()

    def __init__(self, reader: Reader) -> None:
        self._reader, self.is_half_closed = reader, False

    @property
    def is_draining(self) -> bool:
        return self._reader.front.is_draining

    def send(self, stream: Stream, headers: bytes | None, message: bytes, trailers: bytes | None) -> None:
        """See `GrpcConnection`."""
        if not stream.is_abandoned:
            self._reader.tell((SEND, stream.id, headers, message, trailers))
            if trailers is not None:
                self._reader.calls.pop(stream.id, None)

    def end(self, stream: Stream, headers: bytes | None, trailers: bytes) -> None:
        """See `GrpcConnection`."""
        if not stream.is_abandoned:
            self._reader.tell((END, stream.id, headers, trailers))
        self._reader.calls.pop(stream.id, None)

    def broke(self, stream: Stream) -> None:
        """See `GrpcConnection`."""
        if self._reader.calls.pop(stream.id, None) is not None:
            stream.is_abandoned = True
            self._reader.tell((BROKE, stream.id))


class Reader:
    """One process. `exchanges` and `calls` are by its own numbers; `lost` is called when it has ended."""

    def __init__(
        self, front: Front, options: Callable[[int, int, int], ReaderOptions], lost: Callable[[Reader], None]
    ) -> None:
        self.front, self._lost = front, lost
        self.exchanges: dict[int, _Asked] = {}
        self.calls: dict[int, Stream] = {}
        # Connections: given to it, taken, and closed since; and whether it has ever been heard of.
        self.given = self.adopted = self.closed = 0
        self.is_up = False
        self._is_quiet = self._has_newcomers = False
        self._channel = Channel(front.loop, self._heard, self._ended)
        self.tell = self._channel.send
        ours, theirs = socket.socketpair()
        self._passing, passed = socket.socketpair()
        arena = create()
        self._arena = Arena(arena)
        self._socket = ours
        told = json.dumps(asdict(options(theirs.fileno(), passed.fileno(), arena)))
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.process", told],
                pass_fds=(theirs.fileno(), passed.fileno(), arena),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        finally:
            theirs.close()
            passed.close()
            os.close(arena)
        self._passing.setblocking(False)

    async def connect(self) -> None:
        await self.front.loop.create_connection(lambda: self._channel, sock=self._socket)

    @property
    def connections(self) -> int:
        return self.given - self.closed

    @property
    def is_quiet(self) -> bool:
        return self._is_quiet and self.adopted == self.given and not (self.exchanges or self.calls)

    @property
    def has_newcomers(self) -> bool:
        return self._has_newcomers

    def give(self, descriptor: int) -> bool:
        """Whether it got this connection."""
        try:
            socket.send_fds(self._passing, [b"c"], [descriptor])
        except OSError:
            return False
        self.given += 1
        self._is_quiet = False
        return True

    def close(self) -> None:
        """It ends once it sees this."""
        self._channel.close()
        self._passing.close()

    def finished(self, exchange: Exchange, status: int, headers: bytes, body: bytes) -> None:
        """See `Carrier`."""
        key = exchange.key  # type: ignore[attr-defined]
        if self.exchanges.pop(key, None) is not None:
            self.tell((ANSWER, key, status, headers, body))

    def broke(self, exchange: Exchange) -> None:
        """See `Carrier`."""
        key = exchange.key  # type: ignore[attr-defined]
        if self.exchanges.pop(key, None) is not None:
            self.tell((BROKE, key))

    def free(self) -> None:
        """Give back what nobody here looks at any more."""
        freed = self._arena.freed
        if freed:
            places = []
            while freed:
                places.append(freed.popleft())
            self.tell((FREE, places))

    def _heard(self, record: Record) -> None:
        what = record[0]
        if what == ASK:
            self._ask(*record[1:])
        elif what == MESSAGE:
            self._message(*record[1:])
        elif what == ENDED:
            self._input_ended(*record[1:])
        elif what == GONE:
            self._gone(record[1])
        elif what == STATE:
            self.is_up = True
            self.adopted, self.closed, self._is_quiet, self._has_newcomers = record[1:]
        self.free()

    def _body(self, found: bytes | tuple[int, int, int]) -> bytes | memoryview:
        if type(found) is bytes:
            return found
        place, start, size = found
        return self._arena.view(place, start + size)[start:].toreadonly()

    def _ask(self, key: int, method: bytes, target: bytes, headers: dict[bytes, bytes], body: Any) -> None:
        exchange = _Asked(self, method, target, headers, self._body(body), keep_alive=True)
        exchange.key = key
        self.exchanges[key] = exchange
        try:
            self.front.dispatch(exchange)
        except Exception:
            self.front.broke(exchange)

    def _stream(self, key: int, headers: dict[bytes, bytes] | None) -> Stream | None:
        if headers is None:
            return self.calls.get(key)
        method = self.front.service.method(headers)
        stream = self.calls[key] = Stream(_Carried(self), key, headers, method, 0)  # type: ignore[arg-type]
        return stream

    def _message(self, key: int, headers: dict[bytes, bytes] | None, found: Any, ended: bool) -> None:
        stream = self._stream(key, headers)
        if stream is None or stream.is_answered:
            return
        stream.input_ended = ended
        self._safely(stream, lambda: self._take_in(stream, self._body(found)))
        if ended:
            self._safely(stream, lambda: stream.method.input_ended(stream))

    def _take_in(self, stream: Stream, message: bytes | memoryview) -> None:
        stream.open_messages += 1
        stream.method.message(stream, message)

    def _input_ended(self, key: int, headers: dict[bytes, bytes] | None, half_closed: bool) -> None:
        stream = self._stream(key, headers)
        if stream is not None:
            stream.input_ended = True
            stream.connection.is_half_closed = half_closed  # type: ignore[misc]
            self._safely(stream, lambda: stream.method.input_ended(stream))

    def _safely(self, stream: Stream, do: Callable[[], None]) -> None:
        try:
            do()
        except SlipwayError as error:
            stream.refuse(error)
        except Exception as error:
            log.exception("a gRPC request broke the pod's own code")
            stream.refuse(ModelFault(f"internal error: {type(error).__name__}"))

    def _gone(self, key: int) -> None:
        gone: Exchange | Stream | None = self.exchanges.pop(key, None) or self.calls.pop(key, None)
        if gone is not None:
            gone.is_abandoned = True

    def _ended(self) -> None:
        for exchange in self.exchanges.values():
            exchange.is_abandoned = True
        for call in self.calls.values():
            call.is_abandoned = True
        self.exchanges.clear()
        self.calls.clear()
        self.is_up = False
        self._passing.close()
        self._lost(self)


class Readers:
    """So many of them, each started again when it ends."""

    def __init__(self, count: int, front: Front, *, max_body_bytes: int, max_connections: int) -> None:
        self._count, self._front = count, front
        self._max_body_bytes, self._max_connections = max_body_bytes, max_connections
        self._readers: list[Reader] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False

    async def start(self) -> None:
        for _ in range(self._count):
            await self._start_one()

    @property
    def processes(self) -> tuple[int, ...]:
        """Their ids."""
        return tuple(reader.process.pid for reader in self._readers)

    @property
    def are_up(self) -> bool:
        return len(self._readers) == self._count and all(reader.is_up for reader in self._readers)

    @property
    def connections(self) -> int:
        return sum(reader.connections for reader in self._readers)

    @property
    def is_quiet(self) -> bool:
        return all(reader.is_quiet for reader in self._readers)

    @property
    def has_newcomers(self) -> bool:
        return any(reader.has_newcomers for reader in self._readers)

    def protocol(self) -> asyncio.BaseProtocol:
        """For a connection that was accepted."""
        return _Handover(self, self._front) if self._readers else Connection(self._front)

    def give(self, descriptor: int) -> bool:
        """Whether one of them takes this connection: the one with the fewest."""
        for reader in sorted(self._readers, key=lambda one: one.connections):
            if reader.is_up and reader.give(descriptor):
                return True
        return False

    def sweep(self) -> None:
        """Once a second."""
        for reader in self._readers:
            reader.free()

    def drain(self) -> None:
        for reader in self._readers:
            reader.tell((DRAIN,))
            for stream in list(reader.calls.values()):
                stream.leave_if_quiet()

    def close_idle(self) -> None:
        for reader in self._readers:
            reader.tell((CLOSE,))

    async def close(self) -> None:
        """End them, and wait for that."""
        self._is_closing = True
        for task in list(self._tasks):
            task.cancel()
        readers, self._readers = self._readers, []
        for reader in readers:
            reader.close()
        for reader in readers:
            await asyncio.to_thread(_wait, reader.process)

    async def _start_one(self) -> None:
        reader = Reader(self._front, self._options, self._ended)
        self._readers.append(reader)
        await reader.connect()

    def _options(self, channel: int, connections: int, arena: int) -> ReaderOptions:
        return ReaderOptions(
            channel=channel,
            connections=connections,
            arena=arena,
            max_body_bytes=self._max_body_bytes,
            held_bytes=max(1, BODIES // self._count) * self._max_body_bytes,
            max_connections=self._max_connections,
        )

    def _ended(self, reader: Reader) -> None:
        if self._is_closing or reader not in self._readers:
            return
        self._readers.remove(reader)
        log.error("a reader ended with %s; another is started", reader.process.poll())
        task = self._front.loop.create_task(self._again(reader))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _again(self, ended: Reader) -> None:
        await asyncio.to_thread(_wait, ended.process)
        await asyncio.sleep(_AGAIN_SECONDS)
        await self._start_one()


class _Handover(asyncio.Protocol):
    """A connection on its way to a reader; where none takes it, the pod serves it itself."""

    def __init__(self, readers: Readers, front: Front) -> None:
        self._readers, self._front = readers, front

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._readers.give(transport.get_extra_info("socket").fileno()):
            transport.abort()  # type: ignore[attr-defined]
            return
        connection = Connection(self._front)
        transport.set_protocol(connection)
        connection.connection_made(transport)


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)

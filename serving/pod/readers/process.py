"""`python -m serving.pod.readers.process OPTIONS`: one reader, until the pod that started it closes its end.

What has arrived whole goes to the pod, what the pod answers goes out: connections, their limits and both
protocols' framing are this process's, everything that knows of models is the pod's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

import uvloop

from model_store.errors import SlipwayError
from serving.pod.connections import Connections
from serving.pod.grpc.connection import GrpcConnection
from serving.pod.grpc.header_blocks import Headers
from serving.pod.grpc.stream import Stream
from serving.pod.held import HeldBytes
from serving.pod.http.connection import Connection
from serving.pod.http.exchange import Exchange
from serving.pod.logs import write_json_lines
from serving.pod.readers.arena import Arena, ArenaBuffers
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

log = logging.getLogger("slipway.pod")

_SWEEP_SECONDS = 1.0
_DRAINING_SECONDS = 0.01
_MOST_AT_ONCE = 16
# Calls that may stay open without a message for as long as their client likes.
_OPEN_ENDED = (b"/ModelStreamInfer", b"/ServerReflectionInfo")


@dataclass(frozen=True, slots=True)
class ReaderOptions:
    """Descriptors that the pod has given it, and the pod's limits."""

    channel: int
    connections: int
    arena: int
    max_body_bytes: int
    held_bytes: int
    max_connections: int

    @classmethod
    def parse(cls, text: str) -> ReaderOptions:
        return cls(**json.loads(text))


class _Call(Stream):
    """A gRPC call whose messages go to the pod as they are complete."""

    __slots__ = ("_is_gone", "front", "has_told_end", "is_known", "key")

    def __init__(
        self, front: ReaderConnections, connection: GrpcConnection, number: int, headers: Headers, window: int
    ) -> None:
        self.front, self.key, self._is_gone = front, front.new_key(), False
        self.is_known = self.has_told_end = False
        super().__init__(connection, number, headers, _Relayed.of(headers), window)

    @property
    def is_abandoned(self) -> bool:
        return self._is_gone

    @is_abandoned.setter
    def is_abandoned(self, value: bool) -> None:
        if value and not self._is_gone and self.is_known:
            self.front.gone(self.key)
        self._is_gone = value

    def headers_once(self) -> dict[bytes, bytes] | None:
        """For the record by which the pod first hears of this call."""
        first, self.is_known = not self.is_known, True
        return dict(self.headers) if first else None


class _Relayed:
    """What a stream does with what arrives on it: leave it to the pod."""

    began = None

    def __init__(self, *, expects_a_message: bool) -> None:
        self.expects_a_message = expects_a_message

    @classmethod
    def of(cls, headers: Headers) -> _Relayed:
        return _STREAMED if headers.get(b":path", b"").endswith(_OPEN_ENDED) else _UNARY

    def message(self, stream: Any, payload: bytes | memoryview) -> None:
        front = stream.front
        front.calls[stream.key] = stream
        stream.has_told_end = stream.input_ended
        front.tell((MESSAGE, stream.key, stream.headers_once(), front.handed(payload), stream.input_ended))

    def input_ended(self, stream: Any) -> None:
        front = stream.front
        if stream.has_told_end or stream.is_answered:
            return
        stream.has_told_end = True
        front.calls[stream.key] = stream
        front.tell((ENDED, stream.key, stream.headers_once(), stream.connection.is_half_closed))


_UNARY, _STREAMED = _Relayed(expects_a_message=True), _Relayed(expects_a_message=False)


class ReaderConnections(Connections):
    """The connections of this process. `tell` sends a record to the pod."""

    def __init__(self, options: ReaderOptions, loop: asyncio.AbstractEventLoop) -> None:
        arena = Arena(options.arena)
        self._bodies = ArenaBuffers(arena)
        super().__init__(
            self,
            loop=loop,
            clock=time.perf_counter,
            max_body_bytes=options.max_body_bytes,
            max_connections=options.max_connections,
            held=HeldBytes(options.max_body_bytes, options.held_bytes),
            buffers=self._bodies,
        )
        self._last_key = 0
        self._asked: dict[int, Exchange] = {}
        self.calls: dict[int, _Call] = {}
        self.adopted = self._closed = 0
        self.over = asyncio.Event()
        self.channel = Channel(loop, self.heard, self.over.set)
        self.tell = self.channel.send

    def new_key(self) -> int:
        self._last_key += 1
        return self._last_key

    def handed(self, body: bytes | memoryview) -> bytes | tuple[int, int, int]:
        """A body as a record has it: its place in the arena, or itself."""
        if type(body) is bytes:
            return body
        place = self._bodies.hand_on(body)  # type: ignore[arg-type]
        return bytes(body) if place is None else place

    # From clients

    def dispatch(self, exchange: Exchange) -> None:
        """Ask the pod."""
        if self.is_draining:
            exchange.keep_alive = False
        key = self.new_key()
        self._asked[key] = exchange
        headers = dict(exchange.headers)
        self.tell((ASK, key, exchange.method, exchange.target, headers, self.handed(exchange.body)))

    def refusal(
        self, target: bytes, headers: dict[bytes, bytes], start: bytes | memoryview, length: int
    ) -> SlipwayError | None:
        """Only the pod knows its models."""
        return None

    def open(self, connection: GrpcConnection, number: int, headers: Headers, window: int) -> Stream:
        """See `serving.pod.connections.Calls`."""
        return _Call(self, connection, number, headers, window)

    def gone(self, key: int) -> None:
        """Nobody waits for this call any more."""
        if self.calls.pop(key, None) is not None:
            self.tell((GONE, key))

    def closed(self, connection: Connection | GrpcConnection) -> None:
        super().closed(connection)
        self._closed += 1
        self._tell_gone()
        self.tell_state()

    def _tell_gone(self) -> None:
        for key in [key for key, exchange in self._asked.items() if exchange.is_abandoned]:
            del self._asked[key]
            self.tell((GONE, key))

    def adopt(self, descriptors: socket.socket) -> None:
        """Take the connections that the pod has accepted for this reader."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, found, _, _ = socket.recv_fds(descriptors, _MOST_AT_ONCE, _MOST_AT_ONCE)
                if not data:
                    return
                for descriptor in found:
                    self.adopted += 1
                    accepted = socket.socket(fileno=descriptor)
                    accepted.setblocking(False)
                    self.loop.create_task(self._connect(accepted))

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: Connection(self), accepted)
        except OSError:
            self._closed += 1
        self.tell_state()

    def tell_state(self) -> None:
        self.tell((STATE, self.adopted, self._closed, self.is_quiet, self.has_newcomers))

    async def sweep_for_ever(self) -> None:
        swept = 0.0
        while True:
            await asyncio.sleep(_DRAINING_SECONDS if self.is_draining else _SWEEP_SECONDS)
            if self.clock() - swept >= _SWEEP_SECONDS:
                swept = self.clock()
                self.sweep()
                self._tell_gone()
            self.tell_state()

    # From the pod

    def heard(self, record: Record) -> None:
        what = record[0]
        if what == ANSWER:
            self._answer(*record[1:])
        elif what == FREE:
            for place in record[1]:
                self._bodies.given_back(place)
        elif what == SEND:
            self._send(*record[1:])
        elif what == END:
            self._end(*record[1:])
        elif what == BROKE:
            self._broke(record[1])
        elif what == DRAIN:
            self.drain()
        elif what == CLOSE:
            self.close_idle()

    def _answer(self, key: int, status: int, headers: bytes, body: bytes) -> None:
        exchange = self._asked.pop(key, None)
        if exchange is not None and not exchange.is_abandoned:
            exchange.connection.finished(exchange, status, headers, body)

    def _send(self, key: int, headers: bytes | None, message: bytes, trailers: bytes | None) -> None:
        call = self.calls.get(key)
        if call is None:
            return
        call.has_sent_headers = call.has_sent_headers or headers is not None
        if trailers is not None:
            call.is_answered = True
            del self.calls[key]
        call.connection.send(call, headers, message, trailers)

    def _end(self, key: int, headers: bytes | None, trailers: bytes) -> None:
        call = self.calls.pop(key, None)
        if call is not None:
            call.is_answered = True
            call.connection.end(call, headers, trailers)

    def _broke(self, key: int) -> None:
        exchange, call = self._asked.pop(key, None), self.calls.pop(key, None)
        if exchange is not None:
            exchange.connection.broke(exchange)
        elif call is not None:
            call.connection.broke(call)


async def run(options: ReaderOptions) -> None:
    """Until the pod closes its end of the channel."""
    loop = asyncio.get_running_loop()
    # Whoever ends the pod may tell the whole group of processes: the pod says when.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: None)
    reading = ReaderConnections(options, loop)
    with (
        socket.socket(fileno=options.channel) as channel,
        socket.socket(fileno=options.connections) as passed,
    ):
        await loop.create_connection(lambda: reading.channel, sock=channel)
        passed.setblocking(False)
        loop.add_reader(passed, reading.adopt, passed)
        reading.tell_state()
        sweeping = loop.create_task(reading.sweep_for_ever())
        await reading.over.wait()
        sweeping.cancel()


if __name__ == "__main__":
    write_json_lines()
    uvloop.run(run(ReaderOptions.parse(sys.argv[1])))
    os._exit(0)

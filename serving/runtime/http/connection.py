"""One HTTP/1.1 connection: llhttp (httptools) parses, this class frames, limits and keeps answers in order.

Limits are on what a client can make the pod hold: header bytes, body bytes, pipelined requests, and the time
a request may take to arrive (`Front.sweep` closes the slow).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import httptools

from serving.runtime.http.exchange import Exchange, simple_response

if TYPE_CHECKING:
    from serving.runtime.http.front import Front

MAX_HEADER_BYTES = 32 * 1024
MAX_HEADERS = 100
MAX_WAITING = 64
_LINGER_SECONDS = 1.0
_EXPECTS = b"100-continue"
_HTTP2 = b"PRI "


class Connection(asyncio.Protocol):
    """Answers leave in the order their requests came, one exchange at a time."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._parser = httptools.HttpRequestParser(self)
        self._current: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._is_discarding = False
        self._parsed: Exchange | None = None
        self._is_new = True
        self._held = b""
        self._input_ended = False
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.receiving_since = 0.0
        self.active_at = 0.0
        self._begin()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.active_at = self._front.clock()
        self._front.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_discarding = True
        if self._current is not None:
            self._current.is_abandoned = True
        self._waiting.clear()
        self._front.closed(self)

    def data_received(self, data: bytes) -> None:
        if self._is_discarding:
            return
        if self._is_new and not self._speaks_http1(data):
            return
        data = self._held + data if self._held else data
        self._held = b""
        known = None if self.receiving_since else self._front.heads.find(data)
        if known is not None:
            head, body = known
            self._arrived(Exchange(self, head.method, head.target, head.headers, body, keep_alive=True))
            return
        is_start, self._parsed = not self.receiving_since, None
        self._parse(data)
        if is_start:
            self._learn(data)

    def _learn(self, data: bytes) -> None:
        exchange, self._parsed = self._parsed, None
        if exchange is not None:
            self._front.heads.learn(data, exchange)

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.refuse(400, "this server does not switch protocols")
        except httptools.HttpParserError as error:
            if not self._is_discarding:
                self.refuse(400, f"not HTTP/1.1: {error}")

    def _speaks_http1(self, data: bytes) -> bool:
        """HTTP/2 with prior knowledge (gRPC) comes to the same port and announces itself."""
        self._held += data
        if _HTTP2.startswith(self._held[:4]):
            if len(self._held) >= len(_HTTP2):
                self._is_discarding = True
                self._front.switch_to_grpc(self, self._held)
            return False
        self._is_new = False
        self._held = self._held[: -len(data)]
        return True

    def eof_received(self) -> bool:
        # A client may close its half and still wait for the answer.
        self._input_ended = True
        return self._current is not None

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._is_discarding:
            self.transport.resume_reading()

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._begin()
        self.receiving_since = self._front.clock()

    def _begin(self) -> None:
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: bytes = b""
        self._chunks: list[bytes] | None = None
        self._body_bytes = 0
        self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._target = self._target + url if self._target else url
        self._header_bytes += len(url)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._abort(414, "the request target is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        self._headers[name.lower()] = value
        if self._header_bytes > MAX_HEADER_BYTES or len(self._headers) > MAX_HEADERS:
            self._abort(431, f"headers are limited to {MAX_HEADERS} and {MAX_HEADER_BYTES} bytes")

    def on_headers_complete(self) -> None:
        length = self._headers.get(b"content-length")
        if length is not None and int(length) > self._front.max_body_bytes:
            self._abort(413, f"a body may have {self._front.max_body_bytes} bytes")
        if self._headers.get(b"expect", b"").lower() == _EXPECTS and not self._is_discarding:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._front.max_body_bytes:
            self._abort(413, f"a body may have {self._front.max_body_bytes} bytes")
        if not self._body:
            self._body = body
        elif self._chunks is None:
            self._chunks = [self._body, body]
        else:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self._is_discarding:
            return
        self.receiving_since = 0.0
        body = self._body if self._chunks is None else b"".join(self._chunks)
        parser = self._parser
        exchange = self._parsed = Exchange(
            self, parser.get_method(), self._target, self._headers, body, parser.should_keep_alive()
        )
        self._chunks, self._body = None, b""
        self._arrived(exchange)

    def _arrived(self, exchange: Exchange) -> None:
        if self._current is None:
            self._start(exchange)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append(exchange)
        else:
            self._abort(429, f"{MAX_WAITING} pipelined requests are waiting")

    # What the exchange and the front need

    def finished(self, exchange: Exchange, response: list[bytes]) -> None:
        """Send the current exchange's answer and go on with the next."""
        if self.transport.is_closing():
            return
        self.transport.write(b"".join(response))
        self._current = None
        if not exchange.keep_alive or (self._input_ended and not self._waiting):
            self._close_after_writing()
        elif self._waiting:
            self._start(self._waiting.popleft())

    @property
    def is_idle(self) -> bool:
        return self._current is None and not self.receiving_since

    def sweep(self, now: float, arrival_seconds: float, idle_seconds: float) -> None:
        """Once a second: close a client that sends too slowly, or has been idle for very long."""
        if self.receiving_since and now - self.receiving_since > arrival_seconds:
            self.refuse(408, f"the request took longer than {arrival_seconds:g} s to arrive")
        elif self.is_idle and now - self.active_at > idle_seconds:
            self.transport.close()

    def drain(self) -> None:
        """Nothing to say before the next answer, which will close the connection."""

    def refuse(self, status: int, problem: str) -> None:
        """Answer with an error out of turn and stop listening to this client."""
        if not self._is_discarding and self._current is None:
            self.transport.write(b"".join(simple_response(status, problem, keep_alive=False)))
        self._close_after_writing()

    def _start(self, exchange: Exchange) -> None:
        self._current = exchange
        self.active_at = self._front.clock()
        try:
            self._front.dispatch(exchange)
        except Exception:
            self._front.broke(exchange)

    def _abort(self, status: int, problem: str) -> None:
        self.refuse(status, problem)
        raise _Stop

    def _close_after_writing(self) -> None:
        """Close, but read on for a moment first: closing on unread input would reset the answer away."""
        if self._is_discarding or self.transport.is_closing():
            return
        self._is_discarding = True
        if self.receiving_since:
            self.transport.write_eof()
            self._front.loop.call_later(_LINGER_SECONDS, self.transport.abort)
        else:
            self.transport.close()


class _Stop(Exception):  # noqa: N818 - httptools turns it into HttpParserCallbackError
    """Ends parsing of a request that has been refused."""

"""One HTTP/1.1 connection: llhttp (httptools) parses, this class frames, limits and keeps answers in order.

Limits are on what a client can make the pod hold: header bytes, body bytes, pipelined requests, and the time
a request may take to arrive (`Connections.sweep` closes the slow). Who breaks one is told so after the
answers to what was asked before, and then heard no more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, cast

import httptools

from serving.pod.codec.early import LARGE_BYTES
from serving.pod.http.ending import end_later
from serving.pod.http.exchange import Exchange, RefusedExchange, response, simple_response
from serving.pod.http.heads import LONGEST
from serving.pod.http.lenience import origin_form, without_upgrade

if TYPE_CHECKING:
    from model_store.errors import SlipwayError
    from serving.pod.connections import Connections
    from serving.pod.http.heads import RequestHead

MAX_HEADER_BYTES = 32 * 1024
MAX_HEADERS = 100
MAX_WAITING = 64
_EXPECTS = b"100-continue"
_HTTP2 = b"PRI "
# Of a large body, before others are heard.
_READ_AT_ONCE = 1 << 20


class Connection(asyncio.BufferedProtocol):
    """Answers leave in the order their requests came, one exchange at a time.

    A large body of a known length is received where it stays (`Connections.buffers`), past llhttp.
    """

    def __init__(self, front: Connections) -> None:
        self._front = front
        self._parser = httptools.HttpRequestParser(self)
        self._current: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._is_discarding = False
        self._parsed: Exchange | None = None
        self.is_new, self._held = True, b""
        self._input_ended = self._is_starting = False
        self._last_words: bytes | None = None
        self._is_reading = self._may_write = True
        self._unended, self._beginning = 0, b""
        # Bytes of bodies in the pod's `HeldBytes`: of all of this connection, and of the one that arrives.
        self._counted = self._arriving = 0
        # A large body, how much of it is there, and its head where that was seen before.
        self._large: memoryview | None = None
        self._filled, self._head = 0, cast("RequestHead | None", None)
        # Who sent a large request sends another: so long was it, and here the next is received.
        self._expected, self._whole = 0, cast("memoryview | None", None)
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.receiving_since = 0.0
        self.active_at = 0.0
        self._begin()

    # asyncio.BufferedProtocol

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._large is not None:
            return self._large[self._filled : self._filled + _READ_AT_ONCE]
        if self._expected and not self.receiving_since:
            self._whole = self._front.buffers.take(self._expected)
            return self._whole
        return self._front.scratch

    def buffer_updated(self, nbytes: int) -> None:
        whole, self._whole = self._whole, None
        if self._large is not None:
            self._fill(nbytes)
        elif whole is not None:
            if not self._is_as_expected(whole, nbytes):
                self._expected = 0
                self.data_received(bytes(whole[:nbytes]))
        else:
            self.data_received(bytes(self._front.scratch[:nbytes]))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.active_at = self._front.clock()
        self._front.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_discarding, self._last_words = True, None
        if self._current is not None:
            self._current.is_abandoned = True
        self._waiting.clear()
        self._front.held.now -= self._counted
        self._counted = 0
        self._front.closed(self)

    def data_received(self, data: bytes) -> None:
        """What `buffer_updated` found, unless it belongs to a large body."""
        if self._is_discarding:
            return
        if self.is_new and not self._speaks_http1(data):
            return
        data = self._held + data if self._held else data
        self._held = b""
        known = None if self.receiving_since else self._front.heads.find(data)
        if known is not None:
            head, body = known
            self._expect(len(data), body)
            self._arrived(Exchange(self, head.method, head.target, head.headers, body, keep_alive=True))
            return
        is_start = not self.receiving_since
        self._parse(data)
        exchange, self._parsed = self._parsed, None
        if is_start and exchange is not None:
            self._front.heads.learn(data, exchange)
            self._expect(len(data), exchange.body)
        elif is_start and self.receiving_since:
            # None of it is complete, so this is the beginning of one.
            self._beginning = data[:LONGEST]

    def _expect(self, size: int, body: bytes | memoryview) -> None:
        """After a request of so many bytes: another such, if its body was large."""
        self._expected = size if len(body) > LARGE_BYTES and size <= _READ_AT_ONCE else 0

    def _is_as_expected(self, whole: memoryview, size: int) -> bool:
        """Whether these bytes begin a large request with a head seen before, and hold nothing after it."""
        if self._is_discarding or self._held:
            return False
        known = self._front.heads.find_start(bytes(whole[: min(size, LONGEST)]))
        if known is None:
            return False
        head, start = known
        end = start + head.length
        if head.length <= LARGE_BYTES or not size <= end <= len(whole):
            return False
        body = whole[start:end]
        if self._front.refusal(head.target, head.headers, body[: size - start], head.length) is not None:
            return False
        self._begin()
        self.receiving_since = self._front.clock()
        self._head, self._large, self._filled = head, body, 0
        self._fill(size - start)
        return True

    def _parse(self, data: bytes) -> None:
        while data and not self._is_discarding:
            data = self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        """Let llhttp read; what it left unread comes back."""
        if not self.receiving_since:
            data = without_upgrade(data)
        before = self._header_bytes, self._body_bytes, self.receiving_since
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parser = httptools.HttpRequestParser(self)
            return data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            self.refuse(400, f"not HTTP/1.1: {error}")
        # llhttp tells of a header once it has all of it, however long that takes.
        is_stuck = before[2] and before == (self._header_bytes, self._body_bytes, self.receiving_since)
        self._unended = self._unended + len(data) if is_stuck else 0
        if self._unended > MAX_HEADER_BYTES:
            self.refuse(431, f"headers are limited to {MAX_HEADERS} and {MAX_HEADER_BYTES} bytes")
        return b""

    def _speaks_http1(self, data: bytes) -> bool:
        """HTTP/2 with prior knowledge (gRPC) comes to the same port and announces itself."""
        self._held += data
        if _HTTP2.startswith(self._held[:4]):
            if len(self._held) >= len(_HTTP2):
                self._is_discarding = True
                self._front.switch_to_grpc(self, self._held)
            return False
        self.is_new = False
        self._held = self._held[: -len(data)]
        return True

    def eof_received(self) -> bool:
        # A client may close its half and still wait for the answer.
        self._input_ended = True
        return self._current is not None

    def pause_writing(self) -> None:
        self._may_write = False
        self._read_on()

    def resume_writing(self) -> None:
        self._may_write = True
        self._read_on()

    def _read_on(self) -> None:
        """Read while answers go out and few requests wait; what has arrived by then is answered, too."""
        may_read = self._may_write and len(self._waiting) < MAX_WAITING
        if may_read == self._is_reading or self.transport.is_closing():
            return
        self._is_reading = may_read
        if may_read:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._begin()
        self.receiving_since = self._front.clock()

    def _begin(self) -> None:
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: bytes = b""
        self._chunks: bytearray | None = None
        self._body_bytes = self._header_bytes = 0
        self._has_headers = False
        self._refusal: SlipwayError | None = None

    def on_url(self, url: bytes) -> None:
        self._target = self._target + url if self._target else url
        self._header_bytes += len(url)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._abort(414, "the request target is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        # What stands behind a chunked body must not change how the request is read.
        if not self._has_headers:
            self._headers[name.lower()] = value
        if self._header_bytes > MAX_HEADER_BYTES or len(self._headers) > MAX_HEADERS:
            self._abort(431, f"headers are limited to {MAX_HEADERS} and {MAX_HEADER_BYTES} bytes")

    def on_headers_complete(self) -> None:
        self._has_headers = True
        length = self._headers.get(b"content-length")
        if length is not None and int(length) > self._front.max_body_bytes:
            self._abort(413, f"a body may have {self._front.max_body_bytes} bytes")
        if self._headers.get(b"expect", b"").lower() == _EXPECTS and self._parser.get_http_version() == "1.1":
            self._continue()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > LARGE_BYTES and self._is_reading:
            self._let_others_be_heard()
        if self._body_bytes > self._front.max_body_bytes:
            self._abort(413, f"a body may have {self._front.max_body_bytes} bytes")
        if self._refusal is not None:
            return
        self._count(len(body))
        if self._large is not None:
            self._put(body)
        elif not self._body:
            self._look_ahead(body)
        elif self._chunks is None:
            self._chunks = bytearray(self._body + body)
        else:
            self._chunks += body

    def _count(self, size: int) -> None:
        held = self._front.held
        held.now += size
        self._counted += size
        self._arriving += size
        if held.now > held.limit and size > 0:
            problem = held.refusal()
            self._abort(429, f"{problem.problem} ({problem.remedy})")

    def _let_go(self, exchange: Exchange) -> None:
        """Its body is of no use any more."""
        self._front.held.now -= exchange.counted
        self._counted -= exchange.counted
        exchange.counted = 0

    def _let_others_be_heard(self) -> None:
        """libuv reads from a socket up to 32 times in one turn of the loop, which is 8 MB of a large body."""
        self.transport.pause_reading()
        self._front.loop.call_soon(self._read_again)

    def _read_again(self) -> None:
        if self._is_reading and not self.transport.is_closing():
            self.transport.resume_reading()

    def _look_ahead(self, start: bytes) -> None:
        """A large body that will be refused is read, so that its client hears why, and not kept."""
        self._body, length = start, int(self._headers.get(b"content-length", 0))
        if length > max(LARGE_BYTES, len(start)):
            self._refusal = self._front.refusal(origin_form(self._target), self._headers, start, length)
        if self._refusal is not None:
            self._body = b""
            self._count(-self._arriving)
        elif length > max(LARGE_BYTES, len(start)) and b"transfer-encoding" not in self._headers:
            self._body, self._large = b"", self._front.buffers.take(length)
            self._put(start)

    def _put(self, part: bytes) -> None:
        assert self._large is not None
        self._large[self._filled : self._filled + len(part)] = part
        self._filled += len(part)

    def _fill(self, size: int) -> None:
        """So much more of a large body has been received into its place."""
        assert self._large is not None
        self._filled += size
        self._body_bytes += size
        if len(self._large) > _READ_AT_ONCE and self._is_reading:
            self._let_others_be_heard()
        with contextlib.suppress(_Stop):
            self._count(size)
            if self._filled == len(self._large):
                self._has_large()

    def _has_large(self) -> None:
        """The large body is whole."""
        if self._head is None:
            self.on_message_complete()
            # llhttp still waits for what it was not shown.
            self._parser = httptools.HttpRequestParser(self)
            self._parsed = None
            return
        head, self._head, self.receiving_since = self._head, None, 0.0
        exchange = Exchange(self, head.method, head.target, head.headers, self._whole_body(), keep_alive=True)
        exchange.counted, self._arriving = self._arriving, 0
        self._arrived(exchange)

    def on_message_complete(self) -> None:
        if self._is_discarding:
            return
        self.receiving_since = 0.0
        body = self._whole_body()
        parser, target = self._parser, origin_form(self._target)
        keep_alive = parser.should_keep_alive() and parser.get_http_version() == "1.1"
        exchange = Exchange(self, parser.get_method(), target, self._headers, body, keep_alive)
        if self._refusal is not None:
            exchange = RefusedExchange.of(exchange, self._refusal)
        exchange.counted, self._arriving = self._arriving, 0
        self._parsed = exchange
        start, self._beginning = self._beginning, b""
        if start and len(exchange.body) > LARGE_BYTES:
            self._expect(self._front.heads.learn_start(start, exchange), exchange.body)
        self._chunks, self._body = None, b""
        self._arrived(exchange)

    def _whole_body(self) -> bytes | memoryview:
        """Of the request that is complete."""
        large, self._large, self._filled = self._large, None, 0
        if large is not None:
            return large.toreadonly()
        return self._body if self._chunks is None else bytes(self._chunks)

    def _arrived(self, exchange: Exchange) -> None:
        if self._current is None:
            self._start(exchange)
        else:
            self._waiting.append(exchange)
            self._read_on()

    # What the exchange and the front need

    def finished(self, exchange: Exchange, status: int, headers: bytes, body: bytes) -> None:
        """Send the current exchange's answer and go on with the next."""
        if self._current is not exchange or self.transport.is_closing():
            return
        self.transport.write(b"".join(response(exchange, status, headers, body)))
        self._current = None
        if exchange.counted:
            self._let_go(exchange)
        if not exchange.keep_alive:
            self._close_after_writing()
        elif not self._is_starting:
            self._go_on()

    def broke(self, exchange: Exchange) -> None:
        """Our own code failed on the answer. Close after a 500, for nobody knows what it left undone."""
        if self._current is not exchange or self.transport.is_closing():
            return
        self._current = None
        self.transport.write(b"".join(simple_response(500, "internal error", keep_alive=False)))
        self._close_after_writing()

    def _go_on(self) -> None:
        # In a loop: hundreds that are answered at once would, one within the other, fill the stack.
        while self._waiting and self._current is None and not self.transport.is_closing():
            self._start(self._waiting.popleft())
            self._read_on()
        if self._current is not None or self._waiting or self.transport.is_closing():
            return
        if self._last_words is not None:
            self.transport.write(self._last_words)
        elif not self._input_ended:
            return
        self._close_after_writing()

    @property
    def is_idle(self) -> bool:
        """Nobody waits on this connection for a part of a request or of an answer."""
        if self._current is not None or self.receiving_since:
            return False
        return not self.transport.get_write_buffer_size()

    def sweep(self, now: float, arrival_seconds: float, idle_seconds: float) -> None:
        """Once a second: close a client that sends too slowly, or has been idle for very long."""
        if self.receiving_since and now - self.receiving_since > arrival_seconds:
            self.refuse(408, f"the request took longer than {arrival_seconds:g} s to arrive")
        elif self.is_idle and now - self.active_at > idle_seconds:
            self.transport.close()

    @property
    def may_ask(self) -> bool:
        """Of a leaving pod: whether this connection was made and nothing has been asked on it yet."""
        return self.is_new

    def leave(self) -> None:
        """At the end of a drain: nobody waits on this connection, and none should ask."""
        self.transport.close()

    def drain(self) -> None:
        """Nothing to say before the next answer, which will close the connection."""

    def refuse(self, status: int, problem: str) -> None:
        """Stop listening to this client, and tell it why, after the answers it still waits for."""
        if self._is_discarding:
            return
        self._is_discarding = True
        # What arrived of it is kept no longer than its connection would be.
        self._body, self._chunks, self._large, self._head = b"", None, None, None
        self._count(-self._arriving)
        self._last_words = b"".join(simple_response(status, problem, keep_alive=False))
        if self._current is None:
            self.transport.write(self._last_words)
            self._close_after_writing()

    def _start(self, exchange: Exchange) -> None:
        self._current, self._is_starting = exchange, True
        self.active_at = self._front.clock()
        try:
            self._front.dispatch(exchange)
        except Exception:
            self._front.broke(exchange)
        finally:
            self._is_starting = False

    def _continue(self) -> None:
        if self._current is None and not self._is_discarding:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _abort(self, status: int, problem: str) -> None:
        self.refuse(status, problem)
        raise _Stop

    def _close_after_writing(self) -> None:
        """Close, but read on for a moment first: closing on unread input would reset the answer away."""
        if self.transport.is_closing():
            return
        self._is_discarding, self._last_words = True, None
        self._waiting.clear()
        if self.receiving_since:
            self.transport.write_eof()
            end_later(self.transport, self._front.loop)
        else:
            self.transport.close()


class _Stop(Exception):  # noqa: N818 - httptools turns it into HttpParserCallbackError
    """Ends parsing of a request that has been refused."""

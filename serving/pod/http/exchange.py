"""One request and the way its answer goes back."""

from __future__ import annotations

from http import HTTPStatus
from math import ceil
from typing import Protocol

import orjson

from model_store.engines.errors import said_beside, status_of
from model_store.errors import Retryable, SlipwayError

JSON = b"content-type: application/json\r\n"
TEXT = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n"
_OK = b"HTTP/1.1 200 OK\r\n"
_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


class Carrier(Protocol):
    """What a request came on, and its answer goes back on."""

    def finished(self, exchange: Exchange, status: int, headers: bytes, body: bytes) -> None:
        """Send the answer. `headers` are whole header lines of HTTP/1."""
        ...

    def broke(self, exchange: Exchange) -> None:
        """Our own code failed on the answer."""
        ...


class Exchange:
    """A request that has arrived whole. Exactly one reply follows.

    Of a large one `body` is a view, for as long as nobody asks for its `plain` bytes.
    """

    __slots__ = ("body", "connection", "counted", "headers", "is_abandoned", "keep_alive", "method", "target")
    refusal: SlipwayError | None = None

    def __init__(
        self,
        connection: Carrier,
        method: bytes,
        target: bytes,
        headers: dict[bytes, bytes],
        body: bytes | memoryview,
        keep_alive: bool,
    ) -> None:
        self.connection = connection
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive
        self.is_abandoned = False
        # Of its body, in the pod's `HeldBytes`.
        self.counted = 0

    @property
    def plain(self) -> bytes:
        """The body, copied where it was a view."""
        if type(self.body) is memoryview:
            self.body = bytes(self.body)
        return self.body

    def reply(self, body: bytes, *, headers: bytes = JSON, status: int = 200) -> None:
        """Answer. `headers` are whole header lines; length, connection and request id are added here.

        For a client that has left there is nothing to write.
        """
        if self.is_abandoned:
            return
        self.connection.finished(self, status, headers, body)

    def reply_error(self, error: SlipwayError, *, headers: bytes = b"") -> None:
        """Answer with an error's status and words; a `Retryable` says when to try again."""
        if isinstance(error, Retryable):
            headers += b"retry-after: %d\r\n" % max(1, ceil(error.delay_seconds))
        for name, value in said_beside(error):
            headers += b"%s: %s\r\n" % (name, value)
        status = status_of(error)
        self.reply(error_body(error), headers=JSON + headers, status=status)


def response(exchange: Exchange, status: int, headers: bytes, body: bytes) -> list[bytes]:
    """An answer as HTTP/1.1 has it."""
    parts = [_OK if status == 200 else _STATUS_LINES[status], headers]
    request_id = exchange.headers.get(b"x-request-id")
    if request_id is not None:
        parts += (b"x-request-id: ", request_id, b"\r\n")
    if not exchange.keep_alive:
        parts.append(b"connection: close\r\n")
    parts.append(b"content-length: %d\r\n\r\n" % len(body))
    if exchange.method != b"HEAD":
        parts.append(body)
    return parts


class RefusedExchange(Exchange):
    """A request that was found to be refused while its body arrived, which was not kept."""

    __slots__ = ("refusal",)

    @classmethod
    def of(cls, exchange: Exchange, refusal: SlipwayError) -> RefusedExchange:
        found = cls(
            exchange.connection,
            exchange.method,
            exchange.target,
            exchange.headers,
            exchange.body,
            exchange.keep_alive,
        )
        found.refusal = refusal
        return found


def error_body(error: SlipwayError) -> bytes:
    return orjson.dumps({"error": f"{error.problem} ({error.remedy})"})


def simple_response(status: int, problem: str, *, keep_alive: bool) -> list[bytes]:
    """An answer for what never became an exchange."""
    body = orjson.dumps({"error": problem})
    connection = b"" if keep_alive else b"connection: close\r\n"
    return [_STATUS_LINES[status], JSON, connection, b"content-length: %d\r\n\r\n" % len(body), body]

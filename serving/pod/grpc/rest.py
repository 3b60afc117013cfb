"""REST over HTTP/2: the exchanges of HTTP/1.1 on a stream, for whoever speaks no gRPC on it.

For clients with prior knowledge of HTTP/2, and what the gateway passes on of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model_store.engines.errors import Refused
from model_store.errors import SlipwayError
from serving.pod.grpc.header_blocks import Headers, header_fields, literal_block
from serving.pod.grpc.stream import Stream
from serving.pod.http.exchange import Exchange

if TYPE_CHECKING:
    from serving.pod.connections import Connections
    from serving.pod.grpc.connection import GrpcConnection


class BodyMethod:
    """What a stream without gRPC does with messages: it has none. A body is due as soon as it is opened."""

    expects_a_message = True
    began = None

    def message(self, stream: Stream, payload: bytes | memoryview) -> None:
        raise NotImplementedError

    def input_ended(self, stream: Stream) -> None:
        raise NotImplementedError


class RestStream(Stream):
    """One request that speaks no gRPC: it carries an `Exchange`, begun when its body is whole."""

    __slots__ = ("_exchange", "_front", "_is_abandoned")

    def __init__(
        self, connection: GrpcConnection, number: int, headers: Headers, front: Connections, send_window: int
    ) -> None:
        self._exchange: Exchange | None = None
        super().__init__(connection, number, headers, BodyMethod(), send_window)
        self._front = front

    @property
    def is_abandoned(self) -> bool:
        return self._is_abandoned

    @is_abandoned.setter
    def is_abandoned(self, value: bool) -> None:
        self._is_abandoned = value
        if self._exchange is not None:
            self._exchange.is_abandoned = value

    def received(self, data: bytes | memoryview, limit: int) -> list[bytes | memoryview]:
        """Keeps the body. Raises `Refused` over `limit` bytes."""
        self._chunks.append(bytes(data))
        self._held += len(data)
        if self._held > limit:
            raise Refused(f"a body may have {limit} bytes", remedy="send less", status=413)
        return []

    def end_input(self) -> None:
        self.input_ended = True
        if self._exchange is not None or self.is_answered:
            return
        self.receiving_since = 0.0
        body, self._chunks, self._held = b"".join(self._chunks), [], 0
        exchange = self._exchange = self._begun(body)
        try:
            self._front.dispatch(exchange)
        except Exception:
            self._front.broke(exchange)

    def reply_error(self, error: SlipwayError, fields: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """What the connection itself refuses: a body that is too large, or too slow."""
        self._begun(b"").reply_error(error)

    def finished(self, exchange: Exchange, status: int, headers: bytes, body: bytes) -> None:
        """Headers, and the body, which ends the stream."""
        if self.is_answered or self.is_abandoned:
            return
        self.is_answered = True
        length = (b"content-length", b"%d" % len(body))
        block = literal_block([(b":status", b"%d" % status), *header_fields(headers), length])
        body = b"" if exchange.method == b"HEAD" else body
        self.connection.send_body(self, self._named(block), body)

    def broke(self, exchange: object = None) -> None:
        self.connection.broke(self)

    def _begun(self, body: bytes) -> Exchange:
        method, path = self.headers.get(b":method", b""), self.headers.get(b":path", b"/")
        return Exchange(self, method, path, self.headers, body, keep_alive=True)

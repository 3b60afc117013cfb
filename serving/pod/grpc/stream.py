"""One gRPC call on a connection: assembles its messages and remembers what of its answer is still unsent."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from model_store.engines.errors import Refused, Unavailable, said_beside
from model_store.errors import SlipwayError
from serving.pod.codec.early import LARGE_BYTES
from serving.pod.grpc.header_blocks import Headers, literal_block
from serving.pod.grpc.status import grpc_message, grpc_status

if TYPE_CHECKING:
    from serving.pod.grpc.connection import GrpcConnection
    from serving.pod.grpc.service import Method

_PREFIX = struct.Struct(">BL")
_PREFIX_BYTES = 5
_GZIP_OR_ZLIB = 47
_CONTENT_TYPE = (b"content-type", b"application/grpc")
_REQUEST_ID = b"x-request-id"

HEADERS_OK = literal_block([_CONTENT_TYPE], status_200=True)
TRAILERS_OK = literal_block([(b"grpc-status", b"0")])


class Stream:
    """`open_messages` counts messages not answered yet; `is_answered` when trailers have been queued."""

    __slots__ = (
        "_chunks", "_held", "_large", "_needed", "connection", "consumed", "counted", "has_sent_headers",
        "headers", "id", "input_ended", "is_abandoned", "is_answered", "method", "open_messages",
        "receiving_since",
        "send_window", "unsent",
    )  # fmt: skip

    def __init__(
        self, connection: GrpcConnection, number: int, headers: Headers, method: Method, send_window: int
    ) -> None:
        self.connection, self.id, self.headers, self.method = connection, number, headers, method
        self.send_window = send_window
        self.is_abandoned = self.is_answered = self.input_ended = self.has_sent_headers = False
        # `counted`: in the pod's `HeldBytes`.
        self.consumed = self.open_messages = self.counted = 0
        # Of the message that is arriving, or is still to come on a unary call; 0 when nothing is owed.
        self.receiving_since = 0.0
        # (bytes left to send, the trailers' block or None when more messages follow)
        self.unsent: list[tuple[memoryview, bytes | None]] = []
        self._chunks: list[bytes] = []
        self._held = self._needed = 0
        # Where a large message is put together; of it, `_held` bytes are there.
        self._large: memoryview | None = None

    def received(self, data: bytes | memoryview, limit: int) -> list[bytes | memoryview]:
        """Messages completed by this data. Raises `Refused` over `limit` bytes or on bad compression."""
        if self._large is not None:
            part = data[: len(self._large) - self._held]
            self._large[self._held : self._held + len(part)] = part
            messages = self.filled(len(part))
            return messages + self._cut(data[len(part) :], limit) if len(part) < len(data) else messages
        if self._chunks:
            self._chunks.append(bytes(data))
            self._held += len(data)
            if self._held < self._needed:
                return []
            data = b"".join(self._chunks)
            self._chunks = []
        return self._cut(data, limit)

    def place(self, most: int) -> memoryview | None:
        """Where so many bytes of what comes next, or fewer, may be put; `filled` is told of them."""
        return self._large[self._held : self._held + most] if self._large is not None else None

    def filled(self, size: int) -> list[bytes | memoryview]:
        """So many bytes have been put into the large message; it, if that was all."""
        assert self._large is not None
        self._held += size
        if self._held < len(self._large):
            return []
        message, self._large, self._held = self._large, None, 0
        return [message.toreadonly()]

    def _cut(self, data: bytes | memoryview, limit: int) -> list[bytes | memoryview]:
        messages: list[bytes | memoryview] = []
        position, self._needed = 0, _PREFIX_BYTES
        while len(data) - position >= _PREFIX_BYTES:
            compressed, length = _PREFIX.unpack_from(data, position)
            if length > limit:
                raise Refused(f"a message of {length} bytes", remedy=f"send at most {limit}", status=413)
            start, end = position + _PREFIX_BYTES, position + _PREFIX_BYTES + length
            if length > LARGE_BYTES and not compressed:
                if len(data) < end and self.method.began is not None:
                    self.method.began(bytes(data[start : start + LARGE_BYTES]), length)
                self._large, self._held = self.connection.buffers.take(length), 0
                part = data[start:end]
                self._large[: len(part)] = part
                messages += self.filled(len(part))
                if len(data) < end:
                    return messages
                position = end
                continue
            if len(data) < end:
                self._needed = end - position
                break
            message = bytes(data[start:end])
            messages.append(self._inflated(message, limit) if compressed else message)
            position = end
        if position < len(data):
            self._chunks = [bytes(data[position:])]
        self._held = len(data) - position
        return messages

    @property
    def held_bytes(self) -> int:
        """Of a message that has not arrived whole."""
        return self._held if self._chunks or self._large is not None else 0

    def drop(self) -> None:
        """Keep nothing of what has arrived."""
        self._chunks, self._held, self._needed, self._large = [], 0, 0, None

    def reply(self, message: bytes, headers: bytes = HEADERS_OK) -> None:
        """The one answer of a unary call; `headers` is an encoded block."""
        self.is_answered = True
        self.connection.send(self, self._named(headers), message, TRAILERS_OK)

    def send(self, message: bytes) -> None:
        """One of many answers of a streamed call."""
        headers = None if self.has_sent_headers else self._named(HEADERS_OK)
        self.has_sent_headers = True
        self.connection.send(self, headers, message, None)

    def finish(self) -> None:
        """End a streamed call."""
        self.is_answered = True
        headers = None if self.has_sent_headers else self._named(HEADERS_OK)
        self.connection.end(self, headers, TRAILERS_OK)

    def leave_if_quiet(self) -> None:
        """End an open streamed call because the pod leaves, unless something of it is under way."""
        if self.method.expects_a_message or self.open_messages or self.held_bytes or self.is_answered:
            return
        self.reply_error(Unavailable("draining", remedy="open another stream"))

    def reply_error(self, error: SlipwayError, fields: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """Trailers only: the status, its words, and the model's own headers."""
        status = (b"grpc-status", b"%d" % grpc_status(error))
        words = (b"grpc-message", grpc_message(error))
        self.is_answered = True
        if self.has_sent_headers:
            self.connection.end(self, None, literal_block([status, words]))
        else:
            block = literal_block(
                [_CONTENT_TYPE, status, words, *said_beside(error), *fields], status_200=True
            )
            self.connection.end(self, None, self._named(block))

    def end_input(self) -> None:
        """The client sends no more on this call."""
        self.input_ended = True
        if self.held_bytes:
            self.refuse(Refused("the message is cut short", remedy="send all of it"))
        else:
            self.method.input_ended(self)

    def refuse(self, error: SlipwayError) -> None:
        """End the call with this error, unless it has its answer."""
        if not self.is_answered:
            self.reply_error(error)

    def broke(self) -> None:
        """Our own code failed on an answer. INTERNAL for the client, whatever of it has been sent."""
        self.connection.broke(self)

    def _named(self, headers: bytes) -> bytes:
        """The block with the client's request id, where it sent one."""
        request_id = self.headers.get(_REQUEST_ID)
        return headers if request_id is None else headers + literal_block([(_REQUEST_ID, request_id)])

    def _inflated(self, message: bytes, limit: int) -> bytes:
        encoding = self.headers.get(b"grpc-encoding", b"identity")
        if encoding == b"identity":
            raise Refused("a message is compressed, and no grpc-encoding says how", remedy="name it there")
        if encoding not in (b"gzip", b"deflate"):
            raise Refused(f"grpc-encoding {encoding[:40]!r}", remedy="send gzip or deflate", status=501)
        reader = zlib.decompressobj(_GZIP_OR_ZLIB)
        try:
            inflated = reader.decompress(message, limit)
        except zlib.error as error:
            raise Refused(f"the message is not {encoding!r}: {error}", remedy="send it plain") from error
        if reader.unconsumed_tail or not reader.eof:
            raise Refused(
                f"the message inflates over {limit} bytes or is cut", remedy="send less", status=413
            )
        return inflated


def speaks_grpc(headers: Headers) -> bool:
    """Source: gRPC over HTTP/2. Whoever does not would take its 200 for success, and so would Envoy."""
    return headers.get(b"content-type", b"").startswith(_CONTENT_TYPE[1])


def with_prefix(message: bytes) -> bytes:
    """A message as gRPC frames it, uncompressed."""
    return _PREFIX.pack(0, len(message)) + message

"""One HTTP/2 connection with prior knowledge, serving gRPC and REST. Source: RFC 9113 and gRPC over HTTP/2.

What is not here is refused or ignored as the RFC allows: push, priorities, TLS (Envoy's part).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from hpack import HPACKError

from model_store.engines.errors import ModelFault, Refused
from model_store.errors import SlipwayError
from serving.pod.buffers import Buffers
from serving.pod.codec.early import LARGE_BYTES
from serving.pod.grpc import frames
from serving.pod.grpc.frames import HEAD, HEAD_BYTES, ConnectionBroken
from serving.pod.grpc.header_blocks import HeaderFrames, HeaderReader, Headers
from serving.pod.grpc.outgoing import NO_TRAILERS, Outgoing
from serving.pod.grpc.rest import RestStream
from serving.pod.grpc.stream import Stream, speaks_grpc, with_prefix

if TYPE_CHECKING:
    from serving.pod.connections import Calls, Connections

log = logging.getLogger("slipway.pod")

# In one second: more resets or control frames than this is an attack (CVE-2023-44487 and kin).
_MAX_NUISANCE = 2000
# How many of them come with an answer: window updates, pings that measure, a frame for the prefix alone.
_PER_ANSWER = 8
# Of a frame that is not a call's last.
_LEAST_DATA = 16
_HALF_CONNECTION = frames.OUR_CONNECTION_WINDOW // 2
_HALF_STREAM = frames.OUR_STREAM_WINDOW // 2
_LEAVING = b"leaving!"
# Of a DATA frame: less is not worth a read of its own.
_WORTH_ITS_PLACE = 16_384
# One read, where a client sends large frames.
_HEAD_READS = 4096


class GrpcConnection(asyncio.BufferedProtocol):
    """Streams by id; `outgoing` holds back what the peer's windows do not take yet.

    The rest of a large DATA frame is received where its message stays (`Connections.buffers`).
    """

    def __init__(self, front: Connections, calls: Calls, transport: asyncio.Transport) -> None:
        self._front, self._calls, self.transport = front, calls, transport
        self._reader = HeaderReader()
        self._streams: dict[int, Stream] = {}
        self._outgoing = Outgoing(transport, front.loop, self._sent_all)
        self._buffer = b""
        # A DATA frame that has not arrived whole: its flags and stream, and how much is still to come.
        self._flags, self._of, self._left = 0, cast("Stream | None", None), 0
        self._into: Stream | None = None
        self._reads = len(front.scratch)
        self._awaits_preface = self.is_new = True
        self._last_id = self._received = self._nuisance = 0
        self._block = HeaderFrames()
        self._is_closing = self._input_ended = self._has_heard = False
        self.receiving_since = 0.0
        self.active_at = front.clock()
        self._outgoing.write(frames.greeting())

    # asyncio.BufferedProtocol

    def get_buffer(self, sizehint: int) -> memoryview:
        self._into = None
        if self._left >= _WORTH_ITS_PLACE and self._of is not None and not self._of.is_answered:
            place = self._of.place(self._left)
            if place is not None:
                self._into = self._of
                return place
        return self._front.scratch[: self._reads]

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_closing:
            return
        if self._into is None:
            self.data_received(self._front.scratch[:nbytes])
        else:
            self._on_part(None, nbytes)

    @property
    def buffers(self) -> Buffers:
        return self._front.buffers

    def data_received(self, data: bytes | memoryview) -> None:
        """What `buffer_updated` found, unless it is in its place. A view holds until this returns."""
        if self._is_closing:
            return
        if self._buffer:
            data = b"".join((self._buffer, data))
            self._buffer = b""
        try:
            position = self._read_preface(bytes(data)) if self._awaits_preface else 0
            self._read_frames(data, position)
        except ConnectionBroken as broken:
            self._break(broken.code, str(broken))
        except HPACKError as error:
            self._break(frames.COMPRESSION_ERROR, str(error))
        if not (self._buffer or self._block.parts or self._left):
            self.receiving_since = 0.0
        elif not self.receiving_since:
            self.receiving_since = self._front.clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        for stream in self._streams.values():
            stream.is_abandoned = True
            self._let_go(stream)
        self._streams.clear()
        self._front.closed(self)

    def eof_received(self) -> bool:
        # A client may close its half and still wait for answers, but what it has begun to ask is all it asks.
        self._input_ended = True
        for stream in list(self._streams.values()):
            stream.end_input()
        self._outgoing.flush()
        self._is_closing = not self._streams
        return bool(self._streams)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._is_closing:
            self.transport.resume_reading()

    # Frames in

    def _read_preface(self, data: bytes) -> int:
        size = frames.preface_size(data)
        if not size:
            self._buffer = data
            return len(data)
        self._awaits_preface = False
        return size

    def _read_frames(self, data: bytes | memoryview, position: int) -> None:
        end = len(data)
        if self._left:
            position = self._go_on(data, position)
        while end - position >= HEAD_BYTES:
            high, low, kind, flags, stream = HEAD.unpack_from(data, position)
            start = position + HEAD_BYTES
            position = start + (high << 8 | low)
            if position - start > frames.OUR_MAX_FRAME:
                raise ConnectionBroken(frames.FRAME_SIZE_ERROR, "frame over the limit")
            number = stream & frames.MAX_WINDOW
            if position > end:
                if kind == frames.DATA and not (flags & frames.PADDED or self._block.parts):
                    self._begin_data(flags, number, position - start)
                    position = self._go_on(data, start)
                else:
                    position = start - HEAD_BYTES
                break
            payload = data[start:position]
            self._on_frame(kind, flags, number, payload if kind == frames.DATA else bytes(payload))
            if self._is_closing:
                return
        if position < end and not self._awaits_preface:
            self._buffer = bytes(data[position:])

    def _go_on(self, data: bytes | memoryview, position: int) -> int:
        """With the DATA frame that has begun; the position behind what is there of it."""
        end = min(len(data), position + self._left)
        self._on_part(data[position:end], end - position)
        return end

    def _on_frame(self, kind: int, flags: int, number: int, data: bytes | memoryview) -> None:
        if self._block.parts and kind != frames.CONTINUATION:
            raise ConnectionBroken(frames.PROTOCOL_ERROR, "a header block was left unfinished")
        if kind == frames.DATA:
            self._begin_data(flags, number, len(data))
            size = len(data)
            if flags & frames.PADDED:
                data = frames.unpadded(flags, bytes(data))
            self._on_part(data, size)
            return
        payload = bytes(data)
        if kind in (frames.HEADERS, frames.CONTINUATION):
            whole = self._block.add(kind, flags, number, payload)
            if whole is not None:
                self._open(*whole)
        elif kind == frames.WINDOW_UPDATE:
            self._on_window_update(number, payload)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionBroken(frames.PROTOCOL_ERROR, "clients do not push")
        else:
            self._on_control(kind, flags, number, payload)

    def _on_control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        self._annoyed("control")
        if kind == frames.SETTINGS and not flags & frames.ACK:
            self._outgoing.settings(payload, self._streams.values())
            self._outgoing.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        elif kind == frames.PING and not flags & frames.ACK:
            self._outgoing.write(frames.pong(payload))
        elif kind == frames.PING:
            self._has_heard = self._has_heard or payload == _LEAVING
        elif kind == frames.RST_STREAM:
            stream = self._streams.pop(number, None)
            if stream is not None:
                stream.is_abandoned = True
                self._let_go(stream)

    def _on_window_update(self, number: int, payload: bytes) -> None:
        self._annoyed("window update")
        self._outgoing.widen(frames.increment(payload), self._streams.get(number), is_connection=not number)

    def _open(self, number: int, flags: int, block: bytes) -> None:
        headers = self._reader.read(block)
        if number in self._streams:
            self._streams[number].end_input()  # trailers from the client
            return
        if number % 2 == 0 or number <= self._last_id:
            raise ConnectionBroken(frames.PROTOCOL_ERROR, f"stream {number} cannot be opened")
        if self.is_new and self.is_draining:
            self._ask_to_leave()
        self._last_id, self.is_new = number, False
        if len(self._streams) >= frames.OUR_MAX_STREAMS:
            self._annoyed("refused HEADERS")
            self._outgoing.write(frames.reset(number, frames.REFUSED_STREAM))
            return
        stream = self._stream(number, headers)
        stream.receiving_since = self._front.clock() if stream.method.expects_a_message else 0.0
        self._streams[number] = stream
        if flags & frames.END_STREAM:
            stream.end_input()

    def _stream(self, number: int, headers: Headers) -> Stream:
        window = self._outgoing.initial_window
        if not speaks_grpc(headers):
            return RestStream(self, number, headers, self._front, window)
        return self._calls.open(self, number, headers, window)

    def _begin_data(self, flags: int, number: int, size: int) -> None:
        """A DATA frame of so many bytes, padding included."""
        if size < _LEAST_DATA and not flags & frames.END_STREAM:
            self._annoyed("almost empty DATA")
        self._received += size
        if self._received > _HALF_CONNECTION:
            self._outgoing.write(frames.window_update(0, self._received))
            self._received = 0
        self._reads = _HEAD_READS if size > LARGE_BYTES else len(self._front.scratch)
        self._flags, self._of, self._left = flags, self._streams.get(number), size
        if self._of is None or self._of.input_ended:
            self._of = None
            if number > self._last_id or number == 0:
                raise ConnectionBroken(frames.PROTOCOL_ERROR, "data on a stream that is not open")
        elif not flags & frames.END_STREAM:
            self._account(self._of, size)

    def _on_part(self, data: bytes | memoryview | None, size: int) -> None:
        """So many bytes of the DATA frame that has begun; None: they are in their message's place."""
        stream = self._of
        self._left -= size
        is_last = not self._left
        if is_last:
            self._of = self._into = None
        if stream is None:
            return
        if is_last and self._flags & frames.END_STREAM:
            stream.input_ended = True
            self._take_in(stream, data, size)
            stream.end_input()
        else:
            self._take_in(stream, data, size)

    def _take_in(self, stream: Stream, data: bytes | memoryview | None, size: int) -> None:
        if stream.is_answered:
            return
        try:
            if data is None:
                messages = stream.filled(size)
            else:
                messages = stream.received(data, self._front.max_body_bytes)
            # All at once: an answer that needs no computing must not seem the last one.
            stream.open_messages += len(messages)
            for message in messages:
                stream.receiving_since = 0.0
                stream.method.message(stream, message)
            if stream.held_bytes and not stream.receiving_since:
                stream.receiving_since = self._front.clock()
            self._count(stream)
        except SlipwayError as error:
            stream.refuse(error)
        except Exception as error:
            log.exception("a gRPC request broke the pod's own code")
            stream.refuse(ModelFault(f"internal error: {type(error).__name__}"))

    def _count(self, stream: Stream) -> None:
        """Into what the pod holds; a message of a call that has one stays there until its answer."""
        size, held = stream.held_bytes, self._front.held
        if size == stream.counted or (size < stream.counted and stream.method.expects_a_message):
            return
        held.now += size - stream.counted
        stream.counted = size
        if held.now > held.limit:
            stream.refuse(held.refusal())
            self._let_go(stream)

    def _let_go(self, stream: Stream) -> None:
        if stream.counted:
            self._front.held.now -= stream.counted
            stream.counted = 0
            stream.drop()

    def _annoyed(self, what: str) -> None:
        """One more frame that brings nobody anything. Raises `ConnectionBroken` for too many of them."""
        self._nuisance += 1
        if self._nuisance > _MAX_NUISANCE:
            raise ConnectionBroken(frames.ENHANCE_YOUR_CALM, f"too many {what} frames")

    def _forgive(self) -> None:
        """Control frames in proportion to answers are how HTTP/2 works."""
        if self._nuisance:
            self._nuisance = max(0, self._nuisance - _PER_ANSWER)

    def _account(self, stream: Stream, size: int) -> None:
        stream.consumed += size
        if stream.consumed <= _HALF_STREAM:
            return
        self._outgoing.write(frames.window_update(stream.id, stream.consumed))
        stream.consumed = 0

    # Answers out

    def send(self, stream: Stream, headers: bytes | None, message: bytes, trailers: bytes | None) -> None:
        """A message, with headers before it and trailers after it where given."""
        if stream.is_abandoned or self._is_closing:
            return
        self._outgoing.send(stream, headers, with_prefix(message), trailers)
        if trailers is None:
            self._forgive()

    def send_body(self, stream: Stream, headers: bytes, body: bytes) -> None:
        """A whole answer to what is no gRPC."""
        if stream.is_abandoned or self._is_closing:
            return
        if body:
            self._outgoing.send(stream, headers, body, NO_TRAILERS)
        else:
            self._outgoing.end(stream, None, headers)

    def end(self, stream: Stream, headers: bytes | None, trailers: bytes) -> None:
        """Trailers without a message; on its own, `trailers` is a whole response."""
        if stream.is_abandoned or self._is_closing:
            return
        self._outgoing.end(stream, headers, trailers)

    def broke(self, stream: Stream) -> None:
        """Our own code failed on an answer: end the call, unless it has ended already."""
        if self._streams.pop(stream.id, None) is not None:
            stream.is_abandoned = True
            self._let_go(stream)
            self._outgoing.write(frames.reset(stream.id, frames.INTERNAL_ERROR))

    def _sent_all(self, stream: Stream) -> None:
        self._streams.pop(stream.id, None)
        self._let_go(stream)
        self._forgive()
        if not stream.input_ended:
            # RFC 9113, 8.1: the answer is complete, the rest of the request is not wanted.
            stream.is_abandoned = True
            self._outgoing.write(frames.reset(stream.id, frames.NO_ERROR))

    # What the front needs

    @property
    def is_idle(self) -> bool:
        """Every call is answered, and its answer is with the kernel."""
        return not (self._streams or self._outgoing.is_pending or self.transport.get_write_buffer_size())

    @property
    def may_ask(self) -> bool:
        """Of a leaving pod: whether a call may be on its way, sent before its client heard of that."""
        return self.is_new or not self._has_heard

    @property
    def is_half_closed(self) -> bool:
        """Whether the client has closed its half: who only listens may have gone for good."""
        return self._input_ended

    @property
    def is_draining(self) -> bool:
        return self._front.is_draining

    def sweep(self, now: float, arrival_seconds: float, idle_seconds: float) -> None:
        """Once a second: forgive nuisances, end calls whose message comes too slowly, close what is idle."""
        self._nuisance = 0
        for stream in [s for s in self._streams.values() if 0 < s.receiving_since < now - arrival_seconds]:
            problem = f"the message took longer than {arrival_seconds:g} s to arrive"
            stream.refuse(Refused(problem, remedy="send it at once", status=408))
        if self.is_draining:
            self._leave_quiet_streams()
        if 0 < self.receiving_since < now - arrival_seconds:
            self._break(frames.ENHANCE_YOUR_CALM, "a frame or header block that does not end")
            return
        if self._streams:
            self.active_at = now
        if self._input_ended and all(stream.unsent for stream in self._streams.values()):
            # All is answered, or waits for windows that nobody will widen.
            self._outgoing.flush()
            self.transport.close()
        elif now - self.active_at > (arrival_seconds if self._awaits_preface else idle_seconds):
            self.transport.close()

    def drain(self) -> None:
        """Ask the client to go elsewhere; what it has sent or is sending is still answered."""
        self._ask_to_leave()
        self._leave_quiet_streams()

    def leave(self) -> None:
        """Say which calls were heard, so that others are made elsewhere, and close our half; then the other.

        Closing both at once would reset the connection on whatever comes, and the last answers with it.
        Source: RFC 9113, 6.8.
        """
        if self._is_closing:
            self.transport.close()
            return
        self._is_closing = True
        self._outgoing.write(frames.goaway(self._last_id, frames.NO_ERROR, b"draining"))
        self._outgoing.flush()
        self.transport.write_eof()

    def _ask_to_leave(self) -> None:
        # Calls that are on their way are answered. Once the ping comes back there are none.
        self._outgoing.write(frames.goaway(frames.MAX_WINDOW, frames.NO_ERROR, b"draining"))
        self._outgoing.write(frames.frame(frames.PING, 0, 0, _LEAVING))

    def _leave_quiet_streams(self) -> None:
        for stream in list(self._streams.values()):
            stream.leave_if_quiet()

    def refuse(self, status: int, problem: str) -> None:
        """The front does not want this connection."""
        self._break(frames.ENHANCE_YOUR_CALM, problem)

    def _break(self, code: int, words: str) -> None:
        self._is_closing = True
        for stream in self._streams.values():
            stream.is_abandoned = True
        self._outgoing.write(frames.goaway(self._last_id, code, words.encode()))
        self._outgoing.flush()
        self.transport.close()

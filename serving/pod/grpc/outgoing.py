"""Frames out, within the windows the peer grants (RFC 9113, 5.2). The common answer is one write."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable

from serving.pod.grpc import frames
from serving.pod.grpc.frames import ConnectionBroken, frame
from serving.pod.grpc.stream import Stream

_LAST_HEADERS = frames.END_HEADERS | frames.END_STREAM
_SETTING = struct.Struct(">HL")
NO_TRAILERS = b""


class Outgoing:
    """One connection's sending side. `sent_all` is told when a stream's trailers have been written.

    What is written in one turn of the event loop leaves in one system call: answers come a batch at a time.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        sent_all: Callable[[Stream], None],
    ) -> None:
        self._transport, self._loop, self._sent_all = transport, loop, sent_all
        self._parts: list[bytes] = []
        self._window = frames.DEFAULT_WINDOW
        self._max_frame = frames.DEFAULT_MAX_FRAME
        self._blocked: dict[Stream, None] = {}
        self.initial_window = frames.DEFAULT_WINDOW

    def write(self, data: bytes) -> None:
        """Bytes for the wire, at the end of this turn."""
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)

    @property
    def is_pending(self) -> bool:
        """Whether something written leaves only at the end of this turn."""
        return bool(self._parts)

    def flush(self) -> None:
        """Send what this turn has written."""
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))

    def send(self, stream: Stream, headers: bytes | None, body: bytes, trailers: bytes | None) -> None:
        """Headers, data, trailers (`NO_TRAILERS` ends the stream without); what does not fit the windows
        follows when they widen."""
        size = len(body)
        head = frame(frames.HEADERS, frames.END_HEADERS, stream.id, headers) if headers is not None else b""
        if size > min(self._window, stream.send_window, self._max_frame) or stream.unsent:
            self.write(head)
            stream.unsent.append((memoryview(body), trailers))
            self._pump(stream)
            return
        self._window -= size
        stream.send_window -= size
        data = frame(frames.DATA, 0, stream.id, body)
        if trailers is None:
            self.write(head + data)
            return
        self.write(head + data + _end(stream, trailers))
        self._sent_all(stream)

    def end(self, stream: Stream, headers: bytes | None, trailers: bytes) -> None:
        """Trailers after whatever is still unsent."""
        if headers is not None:
            self.write(frame(frames.HEADERS, frames.END_HEADERS, stream.id, headers))
        if stream.unsent:
            stream.unsent.append((memoryview(b""), trailers))
            return
        self.write(frame(frames.HEADERS, _LAST_HEADERS, stream.id, trailers))
        self._sent_all(stream)

    def widen(self, increment: int, stream: Stream | None, *, is_connection: bool) -> None:
        """The peer takes more. Raises `ConnectionBroken` when a window grows beyond what can be."""
        if increment == 0:
            raise ConnectionBroken(frames.PROTOCOL_ERROR, "a window update of nothing")
        if is_connection:
            self._window += increment
            if self._window > frames.MAX_WINDOW:
                raise ConnectionBroken(frames.FLOW_CONTROL_ERROR, "window too large")
            for blocked in list(self._blocked):
                self._pump(blocked)
        elif stream is not None:
            stream.send_window += increment
            if stream.send_window > frames.MAX_WINDOW:
                raise ConnectionBroken(frames.FLOW_CONTROL_ERROR, "window too large")
            self._pump(stream)

    def settings(self, payload: bytes, streams: Iterable[Stream]) -> None:
        """The peer's SETTINGS. Raises `ConnectionBroken` on impossible values."""
        if len(payload) % _SETTING.size:
            raise ConnectionBroken(frames.FRAME_SIZE_ERROR, "settings cut short")
        for key, value in _SETTING.iter_unpack(payload):
            if key == frames.SETTING_INITIAL_WINDOW:
                if value > frames.MAX_WINDOW:
                    raise ConnectionBroken(frames.FLOW_CONTROL_ERROR, "window too large")
                for stream in list(streams):
                    stream.send_window += value - self.initial_window
                    self._pump(stream)
                self.initial_window = value
            elif key == frames.SETTING_MAX_FRAME:
                if not frames.DEFAULT_MAX_FRAME <= value < 2**24:
                    raise ConnectionBroken(frames.PROTOCOL_ERROR, "frame size out of range")
                self._max_frame = value

    def _pump(self, stream: Stream) -> None:
        """Send what the windows take now."""
        self._blocked.pop(stream, None)
        while stream.unsent and not stream.is_abandoned:
            data, trailers = stream.unsent[0]
            data = self._write_some(stream, data)
            if data:
                stream.unsent[0] = (data, trailers)
                self._blocked[stream] = None
                return
            stream.unsent.pop(0)
            if trailers is not None:
                self.write(_end(stream, trailers))
                self._sent_all(stream)
                return

    def _write_some(self, stream: Stream, data: memoryview) -> memoryview:
        while data:
            size = min(len(data), self._window, stream.send_window, self._max_frame)
            if size <= 0:
                break
            self.write(frame(frames.DATA, 0, stream.id, bytes(data[:size])))
            self._window -= size
            stream.send_window -= size
            data = data[size:]
        return data


def _end(stream: Stream, trailers: bytes) -> bytes:
    if trailers:
        return frame(frames.HEADERS, _LAST_HEADERS, stream.id, trailers)
    return frame(frames.DATA, frames.END_STREAM, stream.id)

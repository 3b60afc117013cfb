"""Records between a reader and the pod: tuples, all of one turn of the event loop in one write.

By `marshal`, which both ends have in the same version: one is started by the other. A record begins with what
it is about and the number of the request, which the reader gives.
"""

from __future__ import annotations

import asyncio
import marshal
import struct
from collections.abc import Callable, Sequence
from typing import Any

_LENGTH = struct.Struct("<L")

Record = tuple[Any, ...]


# From a reader: a request of HTTP, a message of a gRPC call, the end of its messages, that its client is
# gone, and how its connections are.
ASK, MESSAGE, ENDED, GONE, STATE = range(5)
# From the pod: an answer, a message of one to a gRPC call, its end, a bug of ours, places of the arena that
# are free, and the two steps of a drain.
ANSWER, SEND, END, BROKE, FREE, DRAIN, CLOSE = range(5, 12)


class Channel(asyncio.Protocol):
    """One end. `heard` gets each record, `lost` is called when the other end is gone."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        heard: Callable[[Record], None],
        lost: Callable[[], None],
    ) -> None:
        self._loop, self._heard, self._lost = loop, heard, lost
        self._transport: asyncio.Transport | None = None
        self._records: list[Record] = []
        self._buffer = b""

    def send(self, record: Record) -> None:
        """At the end of this turn."""
        if not self._records:
            self._loop.call_soon(self._flush)
        self._records.append(record)

    def _flush(self) -> None:
        records, self._records = self._records, []
        if self._transport is not None and not self._transport.is_closing():
            data = marshal.dumps(records)
            self._transport.write(_LENGTH.pack(len(data)) + data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        at, end = 0, len(data)
        while end - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(data, at)
            if end - at - _LENGTH.size < size:
                break
            at += _LENGTH.size
            records: Sequence[Record] = marshal.loads(data[at : at + size])
            at += size
            for record in records:
                self._heard(record)
        self._buffer = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

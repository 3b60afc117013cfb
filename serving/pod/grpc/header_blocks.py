"""HPACK: header blocks in and out.

In: the `hpack` library decodes, but a block that leaves the dynamic table as it is (what a client sends from
its second request on) is remembered, until a block comes that changes the table.
Out: literals without indexing, so that one encoded block serves every connection.
"""

from __future__ import annotations

from collections.abc import Iterable

from hpack import Decoder

from serving.pod.grpc import frames
from serving.pod.grpc.frames import ConnectionBroken

MAX_HEADER_LIST_BYTES = 32 * 1024
_MAX_FRAMES = 16
_REMEMBERED = 256
_STATUS_200 = b"\x88"

Headers = dict[bytes, bytes]


class HeaderFrames:
    """Collects one header block, which may come in several frames. `parts` is empty between blocks."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._number = self._flags = 0

    def add(self, kind: int, flags: int, number: int, payload: bytes) -> tuple[int, int, bytes] | None:
        """One frame; with the last, the stream's number, the first frame's flags and the whole block.

        Raises `ConnectionBroken` on a continuation of nothing and on a block over the limit.
        """
        if kind == frames.HEADERS:
            payload = frames.unpadded(flags, payload)
            self._number, self._flags = number, flags
            self.parts = [payload[5:] if flags & frames.HAS_PRIORITY else payload]
        elif not self.parts or number != self._number:
            raise ConnectionBroken(frames.PROTOCOL_ERROR, "a continuation of nothing")
        else:
            self.parts.append(payload)
        # An empty continuation costs the sender little: count frames as well as bytes.
        if sum(map(len, self.parts)) > MAX_HEADER_LIST_BYTES or len(self.parts) > _MAX_FRAMES:
            raise ConnectionBroken(frames.ENHANCE_YOUR_CALM, "header block over the limit")
        if not flags & frames.END_HEADERS:
            return None
        block, self.parts = b"".join(self.parts), []
        return self._number, self._flags, block


class HeaderReader:
    """One connection's decoder. Raises `hpack.HPACKError` on a block that breaks the connection."""

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=MAX_HEADER_LIST_BYTES)
        self._known: dict[bytes, Headers] = {}

    def read(self, block: bytes) -> Headers:
        """The block's headers; of repeated names the last."""
        found = self._known.get(block)
        if found is not None:
            return found
        headers = {bytes(name): bytes(value) for name, value in self._decoder.decode(block, raw=True)}
        if _changes_table(block) or len(self._known) >= _REMEMBERED:
            self._known.clear()
        else:
            self._known[block] = headers
        return headers


def _changes_table(block: bytes) -> bool:
    """Whether a (valid) block holds an incremental literal or a table size update (RFC 7541, 6)."""
    position = 0
    while position < len(block):
        first = block[position]
        if first & 0x80:
            _, position = _read_integer(block, position, 7)
        elif first & 0x60:
            return True
        else:
            index, position = _read_integer(block, position, 4)
            for _ in range(1 if index else 2):
                size, position = _read_integer(block, position, 7)
                position += size
    return False


def _read_integer(block: bytes, position: int, prefix: int) -> tuple[int, int]:
    """RFC 7541, 5.1: the value and where it ends."""
    mask = (1 << prefix) - 1
    value = block[position] & mask
    position += 1
    if value < mask:
        return value, position
    shift = 0
    while True:
        more = block[position]
        position += 1
        value += (more & 0x7F) << shift
        shift += 7
        if not more & 0x80:
            return value, position


def header_fields(lines: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Whole HTTP/1 header lines as name and value pairs."""
    pairs = (line.split(b": ", 1) for line in lines.split(b"\r\n") if line)
    return tuple((name, value) for name, value in pairs)


def literal_block(fields: Iterable[tuple[bytes, bytes]], *, status_200: bool = False) -> bytes:
    """Encode fields as literals without indexing or Huffman coding (RFC 7541, 6.2.2)."""
    parts = [_STATUS_200] if status_200 else []
    for name, value in fields:
        parts += [b"\x00", _integer(len(name)), name, _integer(len(value)), value]
    return b"".join(parts)


def _integer(value: int) -> bytes:
    """RFC 7541, 5.1, with a prefix of seven bits."""
    if value < 127:
        return bytes((value,))
    value -= 127
    out = bytearray((127,))
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    out.append(value)
    return bytes(out)

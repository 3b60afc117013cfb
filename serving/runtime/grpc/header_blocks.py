"""HPACK: header blocks in and out.

In: the `hpack` library decodes, but a block that only points into the tables (what a client sends from its
second request on) leaves them unchanged, so it is remembered until a block comes that changes them.
Out: literals without indexing, so that one encoded block serves every connection.
"""

from __future__ import annotations

from collections.abc import Iterable

from hpack import Decoder

MAX_HEADER_LIST_BYTES = 32 * 1024
_REMEMBERED = 256
_STATUS_200 = b"\x88"

Headers = dict[bytes, bytes]


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
        # Every byte an indexed field of its own: nothing was added to the table.
        if block and min(block) >= 0x80 and 0xFF not in block:
            if len(self._known) < _REMEMBERED:
                self._known[block] = headers
        else:
            self._known.clear()
        return headers


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

"""What a server has to read as if it had been said otherwise."""

from __future__ import annotations

import re

_HEAD_END = b"\r\n\r\n"
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_AUTHORITY = re.compile(rb"https?://[^/?]*", re.IGNORECASE)


def without_upgrade(data: bytes) -> bytes:
    """The first request of `data` as if it did not offer another protocol, as a server may (RFC 9110, 7.8).

    httptools would take it for a request without a body.
    """
    end = data.find(_HEAD_END)
    end = len(data) if end < 0 else end
    if _UPGRADE.search(data, 0, end) is None:
        return data
    return _UPGRADE.sub(b"\r\nnot-upgraded:", data[:end]) + data[end:]


def origin_form(target: bytes) -> bytes:
    """A target as a client sends it that knows of no proxy: `/path?query` (RFC 9112, 3.2.2)."""
    return target if target.startswith(b"/") else _AUTHORITY.sub(b"", target, count=1)

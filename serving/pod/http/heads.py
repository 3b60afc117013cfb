"""Heads of requests seen before are not parsed again.

A client that asks again and again sends the same request line and headers, but for the id of the request and
its trace. What llhttp made of such a head holds for every other request whose head is the same byte for byte
apart from those two values, because neither says anything about how the rest is read. Only whole requests
that came in one piece are looked at: everything else is llhttp's.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from serving.pod.http.exchange import Exchange

_END = b"\r\n\r\n"
LONGEST = 2048
_REMEMBERED = 512
# In lower case, as Envoy writes them: a head that spells them otherwise is not remembered.
_CHANGING = (b"x-request-id", b"traceparent")
# What cannot change the meaning of a head. A value of anything else goes through llhttp.
_IS_PLAIN = re.compile(rb"[0-9A-Za-z._-]{1,128}").fullmatch
# Headers by which a message is framed in another way than by its length, or asks for more than an answer.
_ELSEWHERE = frozenset((b"transfer-encoding", b"expect", b"upgrade"))


class RequestHead(NamedTuple):
    """A request without its body, which has `length` bytes."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    length: int


class Heads:
    """Bounded, since clients choose what is remembered: when full it takes no more until `sweep`."""

    def __init__(self) -> None:
        self._known: dict[bytes, RequestHead] = {}

    def find(self, data: bytes) -> tuple[RequestHead, bytes] | None:
        """The head and the body, if `data` is one whole request with a head seen before."""
        end = data.find(_END, 0, LONGEST)
        if end < 0:
            return None
        key, changing = _split(data[:end])
        head = self._known.get(key)
        if head is None or len(data) != end + 4 + head.length:
            return None
        if changing:
            head = head._replace(headers={**head.headers, **changing})
        return head, data[end + 4 :]

    def find_start(self, data: bytes) -> tuple[RequestHead, int] | None:
        """The head seen before that `data` begins with, and where its body begins."""
        end = data.find(_END, 0, LONGEST)
        if end < 0:
            return None
        key, changing = _split(data[:end])
        head = self._known.get(key)
        if head is None:
            return None
        return head._replace(headers={**head.headers, **changing}) if changing else head, end + 4

    def learn_start(self, data: bytes, exchange: Exchange) -> int:
        """`data` began a request that was parsed as `exchange`; the bytes of the whole, 0 if not learnt."""
        end = data.find(_END, 0, LONGEST)
        if end < 0:
            return 0
        size = end + 4 + len(exchange.body)
        return size if self._learn(data[:end], exchange) else 0

    def learn(self, data: bytes, exchange: Exchange) -> None:
        """`data` was one whole request, parsed as `exchange`. The last of a connection is not worth it."""
        end = data.find(_END, 0, LONGEST)
        # Equal lengths say that the body began where this file thinks it did.
        if end >= 0 and len(data) == end + 4 + len(exchange.body):
            self._learn(data[:end], exchange)

    def _learn(self, data: bytes, exchange: Exchange) -> bool:
        headers = exchange.headers
        if len(self._known) >= _REMEMBERED or not exchange.keep_alive or not _ELSEWHERE.isdisjoint(headers):
            return False
        if int(headers.get(b"content-length", b"0")) != len(exchange.body):
            return False
        key, changing = _split(data)
        if any(name in key.lower() for name in _CHANGING):
            return False
        lasting = {name: value for name, value in headers.items() if name not in changing}
        self._known[key] = RequestHead(exchange.method, exchange.target, lasting, len(exchange.body))
        return True

    def sweep(self) -> None:
        """Now and then: make room for the heads of today."""
        if len(self._known) >= _REMEMBERED:
            self._known.clear()


def _split(head: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The head without the lines that differ between requests, and their values by name."""
    changing: dict[bytes, bytes] = {}
    for name in _CHANGING:
        at = head.find(b"\r\n%s: " % name)
        if at >= 0:
            start = at + len(name) + 4
            end = head.find(b"\r\n", start)
            end = len(head) if end < 0 else end
            if _IS_PLAIN(head, start, end):
                changing[name] = head[start:end]
                head = head[:at] + head[end:]
    return head, changing

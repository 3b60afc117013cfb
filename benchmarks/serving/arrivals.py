"""Callers who do not know of each other: requests come at random moments, however long answers take.

A Poisson process on one thread that never sleeps, so it needs a core of its own. Times run from the moment a
request was due, not from when a connection was free for it: a stall of the server counts for all who came in
it (https://www.scylladb.com/2021/04/22/on-coordinated-omission/).
"""

from __future__ import annotations

import gc
import random
import re
import select
import socket
import time
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.serving.open_loop import Answers, answers_of

_LENGTH = re.compile(rb"content-length: (\d+)\r\n", re.IGNORECASE).search
_SETTLING_SECONDS = 0.5


def arrive(
    url: str, body: Path, *, per_second: float, seconds: float, connections: int, seed: int = 5
) -> tuple[Answers, int]:
    """Ask `url` with `body` on average so often, for so long. The answers with 200, and how many others."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    content = body.read_bytes()
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(content)}\r\n\r\n".encode() + content
    sockets = [socket.create_connection((parts.hostname, parts.port)) for _ in range(connections)]
    gc.disable()
    try:
        arrivals = _Arrivals(sockets, request, random.Random(seed))
        return answers_of(arrivals.times(per_second, seconds)), arrivals.failed
    finally:
        gc.enable()
        for one in sockets:
            one.close()


class _Arrivals:
    def __init__(self, sockets: list[socket.socket], request: bytes, chance: random.Random) -> None:
        self._idle, self._request, self._chance = list(sockets), request, chance
        self._late: deque[float] = deque()
        self._asked: dict[int, tuple[socket.socket, float, bytes]] = {}
        self._poll = select.epoll()
        self.failed = 0
        for one in sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._poll.register(one, select.EPOLLIN)

    def times(self, per_second: float, seconds: float) -> list[float]:
        """Milliseconds from due to answered, of all that were due after the first half second."""
        found: list[float] = []
        due = began = time.perf_counter()
        end = began + _SETTLING_SECONDS + seconds
        while (now := time.perf_counter()) < end or self._asked:
            while due <= now and due < end:
                self._late.append(due)
                due += self._chance.expovariate(per_second)
            while self._late and self._idle:
                self._ask(self._idle.pop(), self._late.popleft())
            for number, _ in self._poll.poll(0):
                was_due = self._read(number)
                if was_due > began + _SETTLING_SECONDS:
                    found.append((time.perf_counter() - was_due) * 1000)
        return found

    def _ask(self, one: socket.socket, due: float) -> None:
        one.sendall(self._request)
        self._asked[one.fileno()] = (one, due, b"")

    def _read(self, number: int) -> float:
        """When the answered request was due; 0 while the answer is not whole, or not the one wanted."""
        one, due, before = self._asked[number]
        data = before + one.recv(65536)
        length, start = _LENGTH(data), data.find(b"\r\n\r\n") + 4
        if start < 4 or length is None or len(data) < start + int(length[1]):
            self._asked[number] = (one, due, data)
            return 0.0
        del self._asked[number]
        self._idle.append(one)
        if data.startswith(b"HTTP/1.1 200 "):
            return due
        self.failed += 1
        return 0.0

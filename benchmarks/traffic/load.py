"""An open-loop client in a process of its own: requests leave at their time, however slow the answers are."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

BODY = b'{"inputs":[]}'
GIVE_UP_SECONDS = 30.0


@dataclass(slots=True)
class Result:
    """What the client saw. `failed` counts everything but a 200; `problems` says what the first ones were."""

    sent: int = 0
    failed: int = 0
    slowest_seconds: float = 0.0
    late_seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Load:
    """Traffic under way; `stop` returns what came of it."""

    _told: Connection

    def stop(self) -> Result:
        self._told.send("stop")
        result = self._told.recv()
        assert isinstance(result, Result)
        return result


@contextmanager
def load(
    port: int, paths: list[str], *, per_second: float, bodies: Sequence[bytes] = (BODY,)
) -> Iterator[Load]:
    """Send `per_second` requests to each of `paths` until stopped, with each of the bodies in turn."""
    here, there = multiprocessing.Pipe()
    arguments = (there, port, paths, per_second, bodies)
    process = multiprocessing.get_context("spawn").Process(target=_run, args=arguments, daemon=True)
    process.start()
    try:
        here.recv()
        yield Load(here)
    finally:
        process.terminate()
        process.join(5)


def _run(told: Connection, port: int, paths: list[str], per_second: float, bodies: Sequence[bytes]) -> None:
    asyncio.run(_Client(port).drive(told, paths, per_second, bodies))


class _Client:
    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._result = Result()

    async def drive(
        self, told: Connection, paths: list[str], per_second: float, bodies: Sequence[bytes]
    ) -> None:
        stopping = asyncio.Event()
        asyncio.get_running_loop().add_reader(told.fileno(), stopping.set)
        told.send("started")
        requests = [
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(body), body)
            for body in bodies
            for path in paths
        ]
        gap = 1 / (per_second * len(paths))
        under_way: set[asyncio.Task[None]] = set()
        began, number = time.monotonic(), 0
        while not stopping.is_set():
            due = began + number * gap
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._result.late_seconds = max(self._result.late_seconds, time.monotonic() - due)
            task = asyncio.create_task(self._send(requests[number % len(requests)]))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
        await asyncio.gather(*under_way)
        told.send(self._result)

    async def _send(self, request: bytes) -> None:
        began = time.monotonic()
        self._result.sent += 1
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                status = await self._ask(request)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as problem:
            status = repr(problem)
        self._result.slowest_seconds = max(self._result.slowest_seconds, time.monotonic() - began)
        if status != "200":
            self._result.failed += 1
            self._result.problems = [*self._result.problems, status][:5]

    async def _ask(self, request: bytes) -> str:
        reader, writer = (
            self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        )
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        _, _, length = head.lower().partition(b"content-length:")
        await reader.readexactly(int(length.split(b"\r\n")[0]))
        self._idle.append((reader, writer))
        return head.split(b" ", 2)[1].decode()

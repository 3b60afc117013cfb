"""The least a server in Python can do: what the pod's figures are held against in the same run.

    python -m benchmarks.serving.bare PORT [MODEL.onnx]

Reads each request to its end, looks at nothing in it, and answers with the same bytes; with a model it first
runs onnxruntime on one row that it has ready. No parsing, no checks, no batches, no metrics.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable

import numpy as np
import uvloop

from benchmarks.serving.raw import one_thread_session

_BODY = b'{"model_name":"m","outputs":[]}'
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(_BODY),
    _BODY,
)
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE).search


class Bare(asyncio.Protocol):
    """One connection with one request at a time."""

    def __init__(self, compute: Callable[[], object]) -> None:
        self._compute, self._held, self._whole = compute, b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        held = self._held = self._held + data if self._held else data
        if not self._whole:
            end, length = held.find(b"\r\n\r\n"), _LENGTH(held)
            if end < 0 or length is None:
                return
            self._whole = end + 4 + int(length[1])
        if len(held) >= self._whole:
            self._held, self._whole = b"", 0
            self._compute()
            self._transport.write(_ANSWER)


def _engine(path: str) -> Callable[[], object]:
    session = one_thread_session(path)
    (spec,) = session.get_inputs()
    row = {spec.name: np.zeros([n if isinstance(n, int) else 1 for n in spec.shape], np.float32)}
    return lambda: session.run(None, row)


async def _serve(port: int, compute: Callable[[], object]) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Bare(compute), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), _engine(sys.argv[2]) if len(sys.argv) > 2 else lambda: None))

"""How a connection ends whose client may still be sending."""

from __future__ import annotations

import asyncio

_LINGER_SECONDS = 1.0


def end_later(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
    """Throw away what comes for a moment, and until all that was written has left."""

    def end() -> None:
        if transport.get_write_buffer_size():
            loop.call_later(_LINGER_SECONDS, end)
        else:
            transport.abort()

    loop.call_later(_LINGER_SECONDS, end)

"""How much of a request's body is read at all, which is decided before anything of it is.

FastAPI reads and parses a body before it asks who sent it: 60 MB of JSON from nobody held the server for 14 s
and took 1.7 GB.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Of ours: reasons, names and a freeze's times.
MOST_BYTES = 256 * 1024
# They sign or show a token, read for themselves, and stop reading for themselves (`serving.web.webhooks`).
DOORS = ("/webhooks/mlflow", "/alerts")

# How many bytes are read of this request's body; None: its endpoint sees to it.
Limit = Callable[["Scope"], int | None]


class BoundedBodies:
    """A middleware: 413 for a body over its limit, as soon as that is known."""

    def __init__(self, app: ASGIApp, *, limit: Limit) -> None:
        self.app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        most = self._limit(scope) if scope["type"] == "http" else None
        if most is None:
            await self.app(scope, receive, send)
            return
        length = _header(scope, b"content-length")
        if most and length.isdigit() and int(length) > most:
            await _refuse(send, most)
            return
        await self._bounded(scope, receive, send, most)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        read, is_refused, has_begun = 0, False, False

        async def listen() -> Message:
            nonlocal read, is_refused
            if not most:
                # Of nobody nothing is read: the endpoint refuses them whatever they say.
                return {"type": "http.request", "body": b"", "more_body": False}
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                is_refused = True
                if not has_begun:
                    await _refuse(send, most)
                return {"type": "http.disconnect"}
            return message

        async def tell(message: Message) -> None:
            nonlocal has_begun
            if not is_refused:
                has_begun = True
                await send(message)

        try:
            await self.app(scope, listen, tell)
        except Exception:
            # What was told that its caller has gone may say so.
            if not is_refused:
                raise


def is_anonymous(scope: Scope) -> bool:
    """Whether nothing was sent by which somebody could be known."""
    return not (_header(scope, b"authorization") or _header(scope, b"cookie"))


def of_ours(scope: Scope) -> int | None:
    """Of Slipway's own endpoints."""
    if scope["path"].endswith(DOORS):
        return None
    return 0 if is_anonymous(scope) and scope["method"] not in ("GET", "HEAD") else MOST_BYTES


def _header(scope: Scope, name: bytes) -> bytes:
    return next((bytes(value) for key, value in scope["headers"] if key == name), b"")


async def _refuse(send: Send, most: int) -> None:
    said = {
        "type": "about:blank",
        "status": 413,
        "title": "Content Too Large",
        "detail": f"at most {most} bytes",
    }
    headers = [(b"content-type", b"application/problem+json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})

"""Who guesses passwords is made to wait: so many wrong ones from an address, then one every few seconds."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from serving.inbound.pace import Pace

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

BURST, PER_SECOND = 10, 0.2
# Of addresses that guessed lately; an attacker with more of them than that is none whom a brake stops.
REMEMBERED = 10_000
_REFUSED = (401, 403)


class LoginBrake:
    """A middleware of Airflow's root app: 429 before a login is looked at. A good one costs nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._paces: OrderedDict[str, Pace] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_login = (
            scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith("/auth/")
        )
        if not is_login:
            await self.app(scope, receive, send)
            return
        who = scope["client"][0] if scope.get("client") else ""
        if (pace := self._paces.get(who)) and not pace.has_room(at=time.monotonic()):
            await _wait(send)
            return

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in _REFUSED:
                self._guessed(who)
            await send(message)

        await self.app(scope, receive, tell)

    def _guessed(self, who: str) -> None:
        pace = self._paces.setdefault(who, Pace(burst=BURST, per_second=PER_SECOND))
        pace.allows(at=time.monotonic())
        self._paces.move_to_end(who)
        while len(self._paces) > REMEMBERED:
            self._paces.popitem(last=False)


async def _wait(send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"%d" % round(1 / PER_SECOND))]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"detail": "too many wrong logins; wait a little"}'})

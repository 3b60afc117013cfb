"""What Slipway puts before Airflow's API server: who guesses passwords is made to wait, and how much of a
body is read for whom, as its endpoints parse before they ask who it is.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from serving.inbound.pace import Pace
from serving.web.bodies import is_anonymous, of_ours

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Of a body. Tasks hand on results; people send a run's configuration, variables and connections; a login is
# short.
TASKS_BYTES, PEOPLES_BYTES, ANYBODYS_BYTES = 16 * 1024 * 1024, 4 * 1024 * 1024, 64 * 1024
# Of wrong passwords from one address: so many at once, then one every few seconds.
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


def body_limit(scope: Scope) -> int | None:
    """For `BoundedBodies`, of Airflow's root app: how many bytes it reads."""
    path: str = scope["path"]
    if path.startswith("/slipway/"):
        return of_ours(scope)
    if is_anonymous(scope):
        return ANYBODYS_BYTES
    return TASKS_BYTES if path.startswith("/execution/") else PEOPLES_BYTES

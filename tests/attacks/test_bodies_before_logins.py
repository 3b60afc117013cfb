"""Anonymous callers of Airflow's API server send 60 MB, and guess passwords: what middlewares let through."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from slipway_airflow import middlewares
from slipway_airflow.middlewares import BURST, LoginBrake

from serving.web.bodies import MOST_BYTES, BoundedBodies

PIECE = 1 << 16
SIZE = 60 << 20
ORIGIN = "/slipway/api/v1/releases"
Headers = tuple[tuple[bytes, bytes], ...]
LOGGED_IN = (b"authorization", b"Bearer made.up.token")


async def reads_first(scope: Any, receive: Any, send: Any) -> None:
    """As FastAPI does: the whole body, and then who sent it."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
    is_known = LOGGED_IN[0] in dict(scope["headers"])
    await send({"type": "http.response.start", "status": 200 if is_known else 401, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@dataclass
class Caller:
    """`taken`: bytes of the body that were read of it."""

    app: Any
    taken: int = 0

    def post(self, path: str, *headers: tuple[bytes, bytes], size: int = SIZE) -> int:
        """The status that it is answered."""
        return asyncio.run(self._post(path, headers, iter([b"x" * PIECE] * (size // PIECE))))

    async def _post(
        self, path: str, headers: tuple[tuple[bytes, bytes], ...], pieces: Iterator[bytes]
    ) -> int:
        said: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            piece = next(pieces, b"")
            self.taken += len(piece)
            return {"type": "http.request", "body": piece, "more_body": bool(piece)}

        async def send(message: dict[str, Any]) -> None:
            said.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": headers,
            "client": ("10.0.0.1", 1),
        }
        await self.app(scope, receive, send)
        assert [one["type"] for one in said] == ["http.response.start", "http.response.body"]
        return int(said[0]["status"])


@pytest.fixture
def caller() -> Caller:
    return Caller(BoundedBodies(reads_first, limit=middlewares.body_limit))


def test_without_it_all_of_it_was_read() -> None:
    caller = Caller(reads_first)
    assert caller.post(ORIGIN) == 401
    assert caller.taken == SIZE


def test_of_nobody_no_byte_is_read(caller: Caller) -> None:
    assert caller.post(ORIGIN) == 401
    assert caller.taken == 0


@pytest.mark.parametrize(
    ("path", "headers", "most"),
    [
        (ORIGIN, (LOGGED_IN,), MOST_BYTES),
        ("/auth/token", (), middlewares.ANYBODYS_BYTES),
        ("/api/v2/variables", (LOGGED_IN,), middlewares.PEOPLES_BYTES),
        ("/execution/xcoms/a/b/c/d", (LOGGED_IN,), middlewares.TASKS_BYTES),
    ],
)
def test_a_made_up_login_has_a_little_read(caller: Caller, path: str, headers: Headers, most: int) -> None:
    assert caller.post(path, *headers) == 413
    assert caller.taken <= most + PIECE


def test_a_length_over_the_limit_is_enough(caller: Caller) -> None:
    assert caller.post(ORIGIN, LOGGED_IN, (b"content-length", b"%d" % SIZE)) == 413
    assert caller.taken == 0


def test_what_is_within_it_passes(caller: Caller) -> None:
    assert caller.post(ORIGIN, LOGGED_IN, size=2 * PIECE) == 200
    assert caller.taken == 2 * PIECE


def test_doors_that_stop_reading_by_themselves_are_let_be(caller: Caller) -> None:
    assert caller.post("/slipway/webhooks/mlflow", size=PIECE) == 401


def test_guesses_of_a_password_are_made_to_wait() -> None:
    caller = Caller(LoginBrake(reads_first))
    asked = [caller.post("/auth/token", size=0) for _ in range(BURST + 3)]
    assert asked == [401] * BURST + [429] * 3
    assert caller.post("/api/v2/dags", size=0) == 401

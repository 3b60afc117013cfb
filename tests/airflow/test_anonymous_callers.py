"""Anonymous callers of Airflow's API server: what they send is not read, and passwords are not guessed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from slipway_airflow import middlewares

from serving.web.bodies import MOST_BYTES
from tests.airflow.people import SIMPLE, ApiServer, api_server

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]

OURS = ("releases/fraud-v1-20260101T000000Z/abort", "freezes", "releases")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("people"), SIMPLE) as running:
        yield running


class Body:
    """Pieces of JSON, counted as they are taken."""

    def __init__(self, size: int) -> None:
        self.size, self.taken = size, 0

    def __iter__(self) -> Iterator[bytes]:
        yield b'{"reason": "'
        while self.taken < self.size:
            self.taken += 1 << 16
            yield b"x" * (1 << 16)
        yield b'"}'


@pytest.mark.parametrize("path", OURS)
@pytest.mark.parametrize("length", [True, False], ids=["with its length", "in chunks"])
def test_of_nobody_no_byte_is_read(
    server: ApiServer, path: str, length: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One POST of 60 MB held the server for 14 s and took 1.7 GB."""
    parsed = watch_parsing(monkeypatch)
    said: dict[str, str] = {"content-type": "application/json"}
    content = b'{"reason": "' + b"x" * (60 << 20) + b'"}' if length else iter(Body(60 << 20))
    answer = server.of(None).post(f"/slipway/api/v1/{path}", content=content, headers=said)
    assert answer.status_code == 401, answer.text
    assert max(parsed, default=0) <= 64 * 1024


@pytest.mark.parametrize("path", OURS)
def test_a_made_up_login_has_a_little_read(
    server: ApiServer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = watch_parsing(monkeypatch)
    headers = {"content-type": "application/json", "authorization": "Bearer made.up.token"}
    answer = server.of(None).post(f"/slipway/api/v1/{path}", content=iter(Body(4 << 20)), headers=headers)
    assert answer.status_code == 413
    assert max(parsed, default=0) <= MOST_BYTES


def test_airflows_own_login_reads_a_login(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = watch_parsing(monkeypatch)
    headers = {"content-type": "application/json"}
    for content in (b'{"username": "' + b"x" * (4 << 20) + b'"}', iter(Body(4 << 20))):
        answer = server.of(None).post("/auth/token", content=content, headers=headers)
        assert answer.status_code == 413
    assert max(parsed, default=0) <= middlewares.ANYBODYS_BYTES


def watch_parsing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the bodies that anything of the server has put together."""
    from starlette.requests import Request

    seen: list[int] = []
    real = Request.body

    async def body(self: Request) -> bytes:
        found = await real(self)
        seen.append(len(found))
        return found

    monkeypatch.setattr(Request, "body", body)
    return seen


def test_guesses_of_a_password_are_made_to_wait(server: ApiServer) -> None:
    asking = server.of(None)
    wrong = [
        asking.post("/auth/token", json={"username": "ada", "password": f"guess {n}"}).status_code
        for n in range(middlewares.BURST + 5)
    ]
    assert wrong[: middlewares.BURST] == [401] * middlewares.BURST
    assert set(wrong[middlewares.BURST :]) == {429}

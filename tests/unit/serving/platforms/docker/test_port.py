"""The launcher's port: who is answered, and how. With Docker behind it: `tests/docker`."""

from __future__ import annotations

from typing import Any

import pytest
from docker.errors import DockerException
from starlette.testclient import TestClient

from model_store.errors import Permanent
from serving.platforms.docker.__main__ import build
from serving.platforms.docker.wanted import Listing, PodsRequest, Ref

REF = {"service": "m", "slot": "blue", "bundle_id": "b", "version": 1}
WANTED = {"ref": REF, "replicas": 1}


class Asked:
    """What a launcher is asked; `problem` is raised at each."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.heard: list[object] = []
        self._problem = problem

    def apply(self, wanted: PodsRequest) -> None:
        self._hear(wanted)

    def retire(self, ref: Ref) -> None:
        self._hear(ref)

    def note_served(self, ref: Ref, address: str) -> None:
        self._hear(address)

    def listing(self) -> Listing:
        self._hear("listing")
        return Listing(standing=())

    def _hear(self, what: object) -> None:
        self.heard.append(what)
        if self._problem:
            raise self._problem


def client(launcher: Any, token: str = "known") -> TestClient:
    return TestClient(build(launcher, "known"), headers={"authorization": f"Bearer {token}"})


def test_what_is_asked_reaches_the_launcher_and_is_answered() -> None:
    launcher = Asked()
    asking = client(launcher)
    assert asking.get("/pods").json() == {"standing": []}
    for path, body in (
        ("/apply", WANTED),
        ("/retire", REF),
        ("/served", {"ref": REF, "address": "10.0.0.9"}),
    ):
        assert asking.post(path, json=body).status_code == 200
    assert [type(each) for each in launcher.heard] == [str, PodsRequest, Ref, str]


def test_who_has_another_token_is_not_heard() -> None:
    launcher = Asked()
    asking = client(launcher, "another")
    assert asking.get("/pods").status_code == asking.post("/apply", json=WANTED).status_code == 401
    assert asking.get("/health").status_code == 200
    assert launcher.heard == []


@pytest.mark.parametrize(
    ("problem", "status", "words"),
    [
        (Permanent("no room", remedy="a larger subnet"), 422, "no room"),
        (DockerException("away"), 503, "Docker does not answer: away"),
    ],
)
def test_what_cannot_be_done_is_said(problem: Exception, status: int, words: str) -> None:
    for answer in (client(Asked(problem)).get("/pods"), client(Asked(problem)).post("/apply", json=WANTED)):
        assert (answer.status_code, answer.json()["problem"]) == (status, words)


def test_a_message_that_is_none_is_refused_before_it_is_heard() -> None:
    launcher = Asked()
    assert client(launcher).post("/apply", json={**WANTED, "image": "other"}).status_code == 422
    assert launcher.heard == []

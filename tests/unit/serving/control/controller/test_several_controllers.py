"""Asking several controllers, of which one moves traffic, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from serving.control import wire_errors
from serving.control.controller_link import ControllerDown, ControllerLink
from serving.control.traffic import NotLeading
from serving.home import Home, Ports
from tests.unit.serving.gateway_process import free_ports


class Controller:
    """One that leads, or stands by for the one at `leader` ("": for one that nobody knows)."""

    def __init__(self, running: ExitStack, leader: str | None = None) -> None:
        self.leader, self.asked = leader, 0
        controller = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, told = controller.answer()
                content = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Not among the tests' words."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.callback(server.server_close)
        running.callback(server.shutdown)

    def answer(self) -> tuple[int, object]:
        self.asked += 1
        if self.leader is None:
            return 200, {"by": self.url}
        return 503, wire_errors.to_json(
            NotLeading.of("another one leads", remedy="ask it", leader=self.leader)
        )


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    monkeypatch.setenv("SLIPWAY_CONTROLLER_TOKEN", "token")
    with ExitStack() as stack:
        yield stack


def link(root: Path, *urls: str) -> ControllerLink:
    return ControllerLink(Home(root, Ports(), controller_at=",".join(urls)))


def nobody() -> str:
    """Where nobody listens."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


def test_the_one_that_leads_is_found_and_asked_first_from_then_on(tmp_path: Path, running: ExitStack) -> None:
    leads = Controller(running)
    stands_by = Controller(running, "")
    asked = link(tmp_path, nobody(), stands_by.url, leads.url)
    for _ in range(3):
        assert asked.ask("GET", "/v1/room") == {"by": leads.url}
    assert (stands_by.asked, leads.asked) == (1, 3)


def test_one_that_stands_by_names_one_that_nobody_knew(tmp_path: Path, running: ExitStack) -> None:
    leads = Controller(running)
    stands_by = Controller(running, leads.url)
    assert link(tmp_path, stands_by.url).ask("GET", "/v1/room") == {"by": leads.url}


def test_who_took_over_is_found_when_the_one_before_is_gone(tmp_path: Path, running: ExitStack) -> None:
    first, second = Controller(running), Controller(running, "")
    asked = link(tmp_path, first.url, second.url)
    assert asked.ask("GET", "/v1/room") == {"by": first.url}
    first.leader, second.leader = second.url, None
    assert asked.ask("GET", "/v1/room") == {"by": second.url}


def test_while_nobody_has_taken_over_it_is_said_who_is_waited_for(tmp_path: Path, running: ExitStack) -> None:
    gone = nobody()
    stands_by = Controller(running, gone)
    with pytest.raises(NotLeading, match="another one leads"):
        link(tmp_path, gone, stands_by.url).ask("GET", "/v1/room")
    with pytest.raises(ControllerDown):
        link(tmp_path, gone, nobody()).ask("GET", "/v1/room")

"""How components are that somebody else keeps alive, told of servers that really listen."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from model_store.errors import Permanent
from serving.home import Home, Ports
from serving.local_stack import elsewhere

BEATS = {loop: {"status": "healthy"} for loop in ("scheduler", "dag_processor", "triggerer")}


@contextmanager
def answering(status: int, body: object = None) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def told(tmp_path: Path, listed: str, *, airflow: int) -> dict[str, str | None]:
    home = Home(tmp_path, Ports(), airflow_at=f"http://127.0.0.1:{airflow}")
    found = elsewhere.statuses(home, {elsewhere.COMPONENTS: listed})
    assert all((each.state == "RUNNING") == (each.problem is None) for each in found)
    return {each.name: each.problem for each in found}


def test_what_answers_is_healthy_and_what_does_not_is_named(tmp_path: Path) -> None:
    with (
        answering(404) as fine,
        answering(503) as broken,
        answering(200, BEATS) as airflow,
        socket.create_server(("127.0.0.1", 0)) as listening,
    ):
        with socket.create_server(("127.0.0.1", 0)) as closing:
            closed = closing.getsockname()[1]
        listed = (
            f"fine=http://127.0.0.1:{fine}/ broken=http://127.0.0.1:{broken}/x "
            f"open=tcp://127.0.0.1:{listening.getsockname()[1]} closed=tcp://127.0.0.1:{closed}"
        )
        found = told(tmp_path, listed, airflow=airflow)
    assert found.pop("closed") == "does not answer (ConnectionRefusedError)"
    assert found.pop("broken") == "answers 503"
    assert found == dict.fromkeys(
        ("fine", "open", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")
    )


def test_a_loop_that_does_not_beat_is_told_apart(tmp_path: Path) -> None:
    late = {**BEATS, "triggerer": {"status": "unhealthy", "latest_triggerer_heartbeat": "long ago"}}
    with answering(200, late) as airflow:
        found = told(tmp_path, "", airflow=airflow)
    assert found["airflow-triggerer"] == "last heartbeat: long ago"
    assert found["airflow-scheduler"] is None


def test_without_airflow_its_loops_are_not_called_healthy(tmp_path: Path) -> None:
    found = told(tmp_path, "nobody=http://no-such-host.invalid:80/", airflow=1)
    assert found["nobody"] == "is not there"
    assert found["airflow-scheduler"] == "last heartbeat: none is known"


@pytest.mark.parametrize("listed", ["mlflow", "mlflow=mlflow:8481", "x=http://host/", "=tcp://a:1"])
def test_a_list_that_is_none_is_refused_and_says_how_to_write_it(tmp_path: Path, listed: str) -> None:
    with pytest.raises(Permanent, match="SLIPWAY_COMPONENTS"):
        told(tmp_path, listed, airflow=1)

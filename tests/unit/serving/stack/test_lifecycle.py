from __future__ import annotations

import socket
from pathlib import Path

import pytest

from model_store.errors import Permanent, Retryable
from serving.home import Home, Ports
from serving.stack import lifecycle
from serving.stack.processes import owned_by


@pytest.mark.parametrize("name", ["100%", "a;b", 'a"b', "what?", "a#b"])
def test_a_home_whose_path_would_be_misread_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Permanent, match="SLIPWAY_HOME"):
        lifecycle.up(Home(tmp_path / name, Ports()))


def test_a_taken_port_is_an_error_before_anything_is_written_or_started(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        home = Home(tmp_path, Ports(guard=server.getsockname()[1]))
        with pytest.raises(Permanent, match="guard"):
            lifecycle.up(home)
    assert owned_by(home) == []
    assert not home.config.exists()
    assert not home.credentials.exists()


def test_ending_what_does_not_run_is_no_error(tmp_path: Path) -> None:
    assert lifecycle.down(Home(tmp_path, Ports())) == 0


def test_the_state_of_what_does_not_run_says_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(Retryable, match="slipway up"):
        lifecycle.standings(Home(tmp_path, Ports()))

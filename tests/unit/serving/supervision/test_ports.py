from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from model_store.errors import Permanent
from serving.supervision.ports import free_ports, is_free, owner_of, require_free


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def unused() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_port_with_a_server_is_not_free(taken: int) -> None:
    assert not is_free(taken)
    assert is_free(unused())


def test_a_server_on_every_interface_takes_the_port_too() -> None:
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        assert not is_free(server.getsockname()[1])


def test_a_port_whose_last_connection_lingers_is_free() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()
        client.close()
    assert is_free(port)


def test_the_owner_is_named_by_pid_and_command(taken: int) -> None:
    assert f"pid {os.getpid()} (" in owner_of(taken)
    assert "pytest" in owner_of(taken)


def test_every_taken_port_is_named_with_the_variable_that_moves_it(taken: int) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        other = server.getsockname()[1]
        with pytest.raises(Permanent) as refused:
            require_free({"mlflow": taken, "gateway": unused(), "controller": other})
    assert f"port {taken} (mlflow)" in refused.value.problem
    assert f"port {other} (controller)" in refused.value.problem
    assert "gateway" not in refused.value.problem
    assert "SLIPWAY_PORT_MLFLOW, SLIPWAY_PORT_CONTROLLER" in refused.value.remedy


def test_free_ports_skip_taken_ones(taken: int) -> None:
    assert taken not in free_ports([taken, unused()], 1)


def test_too_few_free_ports_are_an_error(taken: int) -> None:
    with pytest.raises(Permanent, match="1 free ports are needed for pods, and there are 0"):
        free_ports([taken], 1)

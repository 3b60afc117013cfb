"""Whether ports are free, and if not, who has them."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice

import psutil

from model_store.errors import Permanent

LOCALHOST = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # What servers set: a port whose last connections linger in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCALHOST, port))
        except OSError:
            return False
    return True


def owner_of(port: int) -> str:
    """Who listens there, as "name (pid 12)", or "a process of another user" where the system hides it."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            listening = connection.laddr if connection.status == psutil.CONN_LISTEN else ()
            if tuple(listening)[1:] == (port,) and connection.pid:
                with suppress(psutil.Error):
                    command = " ".join(psutil.Process(connection.pid).cmdline())
                    return f"pid {connection.pid} ({command[:100]})"
    return "a process that this user may not see"


def require_free(ports: Mapping[str, int]) -> None:
    """Raises `Permanent` naming every taken port (`name -> port`), its owner, and how to move it."""
    taken = {name: port for name, port in ports.items() if not is_free(port)}
    if taken:
        lines = [f"port {port} ({name}) is taken by {owner_of(port)}" for name, port in taken.items()]
        movable = [f"SLIPWAY_PORT_{name.upper()}" for name in taken if " " not in name]
        one = f", or one with {', '.join(movable)}" if movable else ""
        raise Permanent(
            "; ".join(lines), remedy=f"End that process, or move all ports with --port-base N{one}."
        )


def free_ports(candidates: Iterable[int], count: int) -> list[int]:
    """The first `count` free ports among the candidates. Raises `Permanent` when there are not as many."""
    found = list(islice(filter(is_free, candidates), count))
    if len(found) < count:
        raise Permanent(
            f"{count} free ports are needed for pods, and there are {len(found)}",
            remedy="Retire unused deployments, or set SLIPWAY_PORT_PODS_FROM.",
        )
    return found

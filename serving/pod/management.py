"""Where the model repository is managed: an address of its own, which callers of models do not reach.

`unix:PATH` is a socket that only its owner may use (mode 0600), `HOST:PORT` a TCP port for a platform that
keeps others away from it by its network's rules. Both speak what the data port speaks, and management too.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_UNIX = "unix:"
_OWNER_ONLY = 0o177


@dataclass(frozen=True, slots=True)
class Address:
    """`path`: of a Unix socket; without one, a TCP `host` and `port` (0 takes a free one)."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"{_UNIX}{self.path}" if self.path else f"{self.host}:{self.port}"


def parse(text: str) -> Address:
    """For the command line. Raises `ArgumentTypeError`."""
    if text.startswith(_UNIX) and text != _UNIX:
        return Address(path=Path(text.removeprefix(_UNIX)))
    host, _, port = text.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is neither unix:PATH nor HOST:PORT")
    return Address(host=host.strip("[]"), port=int(port))


def words(address: Address | None) -> str:
    """A remedy for whoever looks for the repository on the data port."""
    return f"ask {address}, where this pod is managed" if address else "start the pod with --management"


class Listener:
    """Listens at `address`, if there is one. `port` is the TCP port once it is open."""

    def __init__(self, address: Address | None) -> None:
        self._address = address
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(
        self, loop: asyncio.AbstractEventLoop, connection: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        """Raises `OSError` where another process listens."""
        if self._address is None:
            return
        if self._address.path:
            self._server = await loop.create_unix_server(connection, sock=_unix(self._address.path))
        else:
            self._server = await loop.create_server(connection, sock=_tcp(self._address))
            self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._server is None or self._address is None:
            return
        self._server.close()
        if self._address.path:
            self._address.path.unlink(missing_ok=True)


def _tcp(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family)


def _unix(path: Path) -> socket.socket:
    _remove_dead(path)
    bound = socket.socket(socket.AF_UNIX)
    usual = os.umask(_OWNER_ONLY)
    try:
        bound.bind(os.fspath(path))
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(usual)
    return bound


def _remove_dead(path: Path) -> None:
    """What a pod that was killed has left behind."""
    if not (path.exists() and stat.S_ISSOCK(path.stat().st_mode)):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(os.fspath(path)) == 0:
            raise OSError(errno.EADDRINUSE, f"another process listens at {path}")
    path.unlink(missing_ok=True)

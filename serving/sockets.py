"""Unix sockets of an installation: where they are, and HTTP over one.

What is on a port of this machine is everybody's who runs a process here, and of whatever fetches an address
that somebody else names. A socket has an owner and a mode.
"""

from __future__ import annotations

import getpass
import hashlib
import http.client
import os
import socket
import tempfile
from pathlib import Path

from model_store.errors import Permanent

# sockaddr_un.sun_path has 108 bytes with its final zero; supervisord first binds "<path>.<pid>".
LONGEST_SOCKET_PATH = 107 - len(".4194304")


def private_socket(usual: Path, *, named_after: Path) -> Path:
    """In the home, or where that is too long for a socket, in a private folder under the machine's /tmp."""
    if len(os.fsencode(usual)) <= LONGEST_SOCKET_PATH:
        return usual
    digest = hashlib.sha256(os.fsencode(named_after)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"slipway-{getpass.getuser()}" / f"{digest}.sock"


def make_private_folder(path: Path) -> None:
    """For the socket at `path`. Raises `Permanent` where somebody else has a folder of this name."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.stat().st_uid not in (os.getuid(), 0):
        raise Permanent(
            f"{path.parent} belongs to another user, who could answer in place of what listens there",
            remedy="remove it, or set SLIPWAY_HOME to a shorter path",
        )


class UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 over the Unix socket at `path`. Raises as its base does."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

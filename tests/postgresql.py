"""A PostgreSQL of Debian's that tests start and end themselves: a folder of its own, a socket and no port."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg

from tests.tools import POSTGRESQL, require

_START_SECONDS = 60
_SETTINGS = {"listen_addresses": "", "fsync": "off", "max_connections": "60", "shared_buffers": "16MB"}


class Server:
    """One server. `url` is of its database `postgres`; `database()` makes others."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], user: str, address: str = "") -> None:
        self._folder, self._process, self._user, self._address = folder, process, user, address
        self._numbers = count()

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, name: str) -> str:
        port = f"&port={self._address.rpartition(':')[2]}" if self._address else ""
        return f"postgresql://{self._user}@/{name}?host={quote(str(self._folder))}{port}"

    def at_its_address(self, url: str) -> str:
        """The same database for who cannot see the socket. Only of a server that has an address."""
        assert self._address
        return f"postgresql://{self._user}@{self._address}/{url.partition('@/')[2].partition('?')[0]}"

    def database(self, *, like: str | None = None) -> str:
        """The URL of a new database: empty, or a copy of another."""
        name = f"test_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {like or 'template0'}")
        return self.url_of(name)

    def run(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)

    def processes(self) -> list[psutil.Process]:
        """The server's and those of its connections."""
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It answers nothing at all."""
        processes = self.processes()
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()


@contextmanager
def server(*, address: str = "") -> Iterator[Server]:
    """Ended by its process id; a skipped test where it is not installed. Root may not run it: then as the
    account that Debian made for it. `address`: of this machine, at a free port of which it listens for
    whoever reaches it; nowhere by default."""
    bin_folder = Path(require(POSTGRESQL)).resolve().parent
    account = pwd.getpwnam("postgres") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    # Short, because a socket's path is; and not pytest's, which no other account may enter.
    folder = Path(tempfile.mkdtemp(prefix="slipway-pg-"))
    os.chown(folder, account.pw_uid, account.pw_gid)
    as_it: dict[str, Any] = {"cwd": folder}
    if os.getuid() == 0:
        as_it |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data = folder / "data"
    try:
        initdb = [bin_folder / "initdb", "-D", data, "-U", account.pw_name, "-A", "trust", "-E", "UTF8"]
        subprocess.run([*initdb, "--no-sync", "--locale=C.UTF-8"], check=True, capture_output=True, **as_it)
        said = dict(_SETTINGS)
        if address:
            with socket.create_server((address, 0)) as free:
                said |= {"listen_addresses": address, "port": str(free.getsockname()[1])}
            with (data / "pg_hba.conf").open("a") as file:
                file.write("host all all 0.0.0.0/0 trust\n")
        settings = [word for name, value in said.items() for word in ("-c", f"{name}={value}")]
        command = [bin_folder / "postgres", "-D", data, "-k", folder, *settings]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, **as_it)
        try:
            where = f"{address}:{said['port']}" if address else ""
            yield _ready(Server(folder, process, account.pw_name, where), process, folder / "log")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(_START_SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ready(started: Server, process: subprocess.Popen[bytes], log: Path) -> Server:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(started.url).close()
            return started
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start: {log.read_text()}") from None
            time.sleep(0.05)

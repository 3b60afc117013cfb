"""supervisord, which keeps the components and the pods alive: its configuration and its XML-RPC interface."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport  # type: ignore[import-untyped]

from model_store.durable import write_file
from model_store.errors import Permanent, Retryable
from model_store.installation import name_here, python_path
from serving.home import Home
from serving.sockets import make_private_folder, private_socket
from serving.supervision.component import Component
from serving.supervision.processes import HOME_MARK, PROGRAM_MARK

# How supervisord's states read to a person; see "Process States" in its documentation.
STARTING, RUNNING = "STARTING", "RUNNING"
ENDED = ("STOPPED", "EXITED", "FATAL")


@dataclass(frozen=True, slots=True)
class ProgramState:
    """A process as supervisord sees it. `started_at` is seconds since 1970, 0 if it never started."""

    group: str
    name: str
    state: str
    pid: int
    started_at: int
    problem: str

    @property
    def full_name(self) -> str:
        return f"{self.group}:{self.name}"


def socket_path(home: Home) -> Path:
    return private_socket(home.run / "supervisor.sock", named_after=home.root)


def configuration_path(home: Home) -> Path:
    return home.run / "supervisord.conf"


def program_section(
    program: str,
    command: str,
    log: Path,
    *,
    processes: int | None = None,
    start_seconds: int = 1,
    start_retries: int = 10,
    stop_seconds: int = 10,
) -> str:
    """One program. With `processes` given they are named `<program>-<n>`, from 0.

    `command` and `log` may hold supervisord's expressions. A process that lived for `start_seconds` started
    well: a later death restarts it at once. One that did not is tried again after 1, 2, 3 ... seconds,
    `start_retries` times.
    """
    name = "%(program_name)s" if processes is None else "%(program_name)s-%(process_num)d"
    return f"""
[program:{program}]
command={command}
process_name={name}
numprocs={processes or 1}
autorestart=true
startsecs={start_seconds}
startretries={start_retries}
stopsignal=TERM
stopwaitsecs={stop_seconds}
killasgroup=true
umask=077
redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""


def launch_command(*arguments: str) -> str:
    """supervisord splits commands like a shell."""
    return shlex.join([sys.executable, "-m", name_here("serving.local_stack.launch"), *arguments])


def configure(home: Home, programs: Iterable[Component]) -> None:
    """Write supervisord.conf. Pods have files of their own in `Home.pods`, which it includes."""
    socket = socket_path(home)
    make_private_folder(socket)
    sections = [
        program_section(
            program.name,
            launch_command(program.name),
            home.logs / f"{program.name}.log",
            stop_seconds=program.stop_seconds,
        )
        for program in programs
    ]
    write_file(configuration_path(home), (_head(home, socket) + "".join(sections)).encode())


def _head(home: Home, socket: Path) -> str:
    return f"""; Written by `slipway up`; changes are lost.
[unix_http_server]
file={socket}
chmod=0700

[supervisord]
logfile={home.logs / "supervisord.log"}
logfile_maxbytes=10MB
logfile_backups=2
pidfile={home.run / "supervisord.pid"}
childlogdir={home.logs}
directory={home.run}
umask=077

[supervisorctl]
serverurl=unix://{socket}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

; Relative to this file, because supervisord splits the value at spaces.
[include]
files = ../pods/.programs/*.conf
"""


def start(home: Home) -> None:
    """Start supervisord in the background. Raises `Permanent` with its own words if it will not."""
    own = {"SLIPWAY_HOME": str(home.root), **python_path()}
    environment = {**os.environ, **own, HOME_MARK: str(home.root), PROGRAM_MARK: "supervisord"}
    # supervisord unlinks a dead socket by itself, but only where it can still connect and be refused.
    socket_path(home).unlink(missing_ok=True)
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration_path(home))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip()
        raise Permanent(
            f"supervisord does not start: {words}", remedy=f"See {home.logs / 'supervisord.log'}."
        )


class Supervisor:
    """The running supervisord of one home. Every call raises `Retryable` when there is none."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._path = socket_path(home)

    def is_running(self) -> bool:
        """Whether supervisord answers."""
        try:
            with self._rpc() as rpc:
                rpc.supervisor.getState()
        except Retryable:
            return False
        return True

    def pid(self) -> int:
        with self._rpc() as rpc:
            return int(_plain(rpc.supervisor.getPID()))

    def programs(self) -> list[ProgramState]:
        """All processes, components and pods."""
        with self._rpc() as rpc:
            return [
                ProgramState(
                    group=info["group"],
                    name=info["name"],
                    state=info["statename"],
                    pid=info["pid"],
                    started_at=info["start"],
                    problem=info["spawnerr"],
                )
                for info in _plain(rpc.supervisor.getAllProcessInfo())
            ]

    def start(self, full_name: str) -> None:
        """Start a stopped process without waiting for it. Running already is no error."""
        with self._rpc() as rpc:
            _unless("ALREADY_STARTED", lambda: rpc.supervisor.startProcess(full_name, False))

    def stop(self, full_name: str) -> None:
        """Send a process its stop signal without waiting for its end. Stopped already is no error."""
        with self._rpc() as rpc:
            _unless("NOT_RUNNING", lambda: rpc.supervisor.stopProcess(full_name, False))

    def restart(self, full_name: str) -> None:
        """Stop a process, wait for its end, and start it without waiting."""
        with self._rpc() as rpc:
            _unless("NOT_RUNNING", lambda: rpc.supervisor.stopProcess(full_name, True))
        self.start(full_name)

    def add_group(self, group: str) -> None:
        """Start the processes of a program file written since. Started already is no error."""
        with self._rpc() as rpc:
            rpc.supervisor.reloadConfig()
            _unless("ALREADY_ADDED", lambda: rpc.supervisor.addProcessGroup(group))

    def remove_group(self, group: str) -> None:
        """Stop a program's processes, wait until they have ended, and forget it. Unknown is no error."""
        with self._rpc() as rpc:
            _unless("BAD_NAME", lambda: rpc.supervisor.stopProcessGroup(group, True))
            _unless("BAD_NAME", lambda: rpc.supervisor.removeProcessGroup(group))

    def shut_down(self) -> None:
        """End every process and then supervisord itself, without waiting."""
        with self._rpc() as rpc:
            rpc.supervisor.shutdown()

    @contextmanager
    def _rpc(self) -> Iterator[Any]:
        transport = SupervisorTransport(serverurl=f"unix://{self._path}")
        try:
            yield xmlrpc.client.ServerProxy("http://localhost", transport=transport)
        except (OSError, xmlrpc.client.ProtocolError) as error:
            # No socket or nobody behind it is how it is after `down`; anything else is worth saying.
            why = "" if isinstance(error, FileNotFoundError | ConnectionRefusedError) else f" ({error})"
            raise Retryable(
                f"the local stack of {self._home.root} is not running{why}",
                remedy="Start it: ./slipway up",
            ) from error
        finally:
            transport.close()


def _plain(answer: Any) -> Any:
    """XML-RPC answers are untyped; what they hold is written in supervisor/rpcinterface.py."""
    return answer


def _unless(fault_name: str, call: Any) -> None:
    """Make the call; the fault of this name (`supervisor.xmlrpc.Faults`) means it was not needed."""
    try:
        call()
    except xmlrpc.client.Fault as fault:
        if not fault.faultString.startswith(fault_name):
            raise

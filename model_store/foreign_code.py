"""Other people's code, asked once: in the sandbox, with limits of time, memory and disk.

The memory limit of one process is the child's own to set (`main` of the scripts that are run this way); of
all of them together it is the sandbox's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from model_store import NO_TELEMETRY, sandbox
from model_store.errors import Permanent


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the child: wall time, address space (numpy alone maps about 0.7 GB of it), what it writes."""

    seconds: float
    memory_mb: int = 4096
    disk_mb: int = 4096


class TookTooMuch(Permanent):
    """More memory, disk or processes than the sandbox has for it."""


def run_child(
    script: Path,
    work: Path,
    limits: Limits,
    *,
    readable: Iterable[Path] = (),
    python: Path | None = None,
) -> int:
    """The exit status of `python -I script work MEMORY_MB`, run in `work`, where its words are in `log`.

    It reads the scripts beside its own, `readable`, and the libraries of `python` (another one than ours).
    Nothing it started is left. Raises `subprocess.TimeoutExpired`, `TookTooMuch`, `NoSandbox`.
    """
    python = python or Path(sys.executable)
    room = sandbox.Room(
        work, (script.parent, *readable), python, memory_mb=limits.memory_mb, disk_mb=limits.disk_mb
    )
    argv = [str(python), "-I", str(script.absolute()), str(work), str(limits.memory_mb)]
    boxed = sandbox.command(argv, room)
    with (work / "log").open("wb") as log:
        child = subprocess.Popen(
            boxed,
            cwd=work,
            env=_environment(work),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            with sandbox.Watch(room, child) as watch:
                status = child.wait(timeout=limits.seconds)
        finally:
            # Its whole session, where there is no sandbox that ends with all it has.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if watch.why:
        raise TookTooMuch(f"the code was ended: {watch.why}", remedy="make it take less, or log it as ONNX")
    return sandbox.signalled(status)


def _environment(work: Path) -> dict[str, str]:
    """No tokens, passwords or addresses; one thread; the same hashes every time."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    fixed = {"PATH": os.defpath, "HOME": str(work), "TMPDIR": str(work), "LANG": "C.UTF-8"}
    # Without a list of users, who asks for the user's name is told this.
    return (
        kept
        | threads
        | fixed
        | NO_TELEMETRY
        | {"PYTHONHASHSEED": "0", "USER": "sandbox", "LOGNAME": "sandbox"}
    )

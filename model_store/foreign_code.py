"""Other people's code in a process of its own: no environment of ours, a time limit, a folder to write to.

The memory limit is the child's own to set (`main` of the scripts that are run this way).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the child: wall time, and address space (numpy alone maps about 0.7 GB of it)."""

    seconds: float
    memory_mb: int = 4096


def run_child(script: Path, work: Path, limits: Limits, *, python: Path | None = None) -> int:
    """The exit status of `python -I script work MEMORY_MB`, run in `work`, where its words are in `log`.

    `python`: another one than ours. Nothing it started is left. Raises `subprocess.TimeoutExpired`.
    """
    with (work / "log").open("wb") as log:
        child = subprocess.Popen(
            [str(python or sys.executable), "-I", str(script), str(work), str(limits.memory_mb)],
            cwd=work,
            env=_environment(work),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            return child.wait(timeout=limits.seconds)
        finally:
            # Its whole session: the code may have started processes of its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _environment(work: Path) -> dict[str, str]:
    """No tokens, passwords or addresses; one thread; the same hashes every time."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    fixed = {"PATH": os.defpath, "HOME": str(work), "TMPDIR": str(work), "LANG": "C.UTF-8"}
    return kept | threads | fixed | {"PYTHONHASHSEED": "0"}

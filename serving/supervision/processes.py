"""Finding and ending the processes of one installation.

Every process that the stack starts carries two marks in its environment, and hands them to whatever it
starts in turn. So they can be found when nobody supervises them any more, whoever their parent is now:
Airflow puts its tasks into process groups of their own, which no group signal would reach.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from serving.home import Home

HOME_MARK = "SLIPWAY_SUPERVISED"
PROGRAM_MARK = "SLIPWAY_PROGRAM"


@dataclass(frozen=True, slots=True)
class Owned:
    """A process of this installation. `psutil` compares start times, so a reused pid is never signalled."""

    program: str
    process: psutil.Process


def owned_by(home: Home, program: str | None = None) -> list[Owned]:
    """Every process of `home` (of one `program`, if given), but never the caller or its ancestors."""
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = (
        _marked(process, str(home.root)) for process in psutil.process_iter() if process.pid not in spared
    )
    return [owned for owned in found if owned and program in (None, owned.program)]


def _marked(process: psutil.Process, root: str) -> Owned | None:
    try:
        environ = process.environ()
    except (psutil.Error, OSError):
        return None
    return Owned(environ.get(PROGRAM_MARK, "?"), process) if environ.get(HOME_MARK) == root else None


def end(processes: Iterable[psutil.Process], *, patience_seconds: float) -> None:
    """Ask with SIGTERM, wait, then SIGKILL what is left and wait until it is gone."""
    alive = list(processes)
    if patience_seconds > 0:
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        alive = wait_for_end(alive, timeout_seconds=patience_seconds)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_for_end(alive, timeout_seconds=5)


def wait_for_end(processes: list[psutil.Process], *, timeout_seconds: float) -> list[psutil.Process]:
    """Those that still run after the time. A zombie has ended: in a container nobody may collect it."""
    deadline = time.monotonic() + timeout_seconds
    while (alive := [process for process in processes if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def proportional_memory_bytes(process: psutil.Process) -> int:
    """PSS: shared pages are divided among their users, so the sum over processes is what is really used.

    Where the system does not tell (macOS), the resident size.
    """
    try:
        memory = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(memory, "pss", 0) or memory.rss)

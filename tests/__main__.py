"""`./slipway test`: the checks of the code, then all tests. With arguments: only pytest, with these."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from serving.home import REPOSITORY

CHECKS = {
    "style": (sys.executable, "-m", "ruff", "check", "."),
    "format": (sys.executable, "-m", "ruff", "format", "--check", "."),
    "types": (sys.executable, "-m", "mypy", "--num-workers=auto"),
    "imports": (str(Path(sys.executable).with_name("lint-imports")),),
}

# A third of the time tests wait for a process they have started, so one more runs than there are cores.
WORKERS = min((os.cpu_count() or 1) + 1, 8)

# Fast ones first; a failure in the code shows before the stack is started. Airflow has processes of its own:
# once imported, it is in every module that a library walks through, and it reads its settings only once.
TESTS = (
    ("tests/unit", "tests/contract", f"-n{WORKERS}", "--dist=worksteal"),
    ("tests/airflow", f"-n{WORKERS}", "--dist=worksteal"),
    # One stack keeps two cores busy.
    ("tests/e2e",),
)

console = Console(highlight=False)


def main(arguments: list[str]) -> int:
    """Exit status of the first check that fails, else of pytest."""
    os.chdir(REPOSITORY)
    os.environ["PYTHONPATH"] = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'plugins'}"
    if arguments:
        return _run("tests", (sys.executable, "-m", "pytest", *arguments))
    for name, command in CHECKS.items():
        if status := _run(name, command):
            return status
    statuses = [_run("tests", (sys.executable, "-m", "pytest", *group)) for group in TESTS]
    return max(statuses)


def _run(name: str, command: tuple[str, ...]) -> int:
    console.rule(f"[bold]{name}[/bold]  {shlex.join(command)}", align="left")
    started = time.monotonic()
    status = _wait(subprocess.Popen(command))
    # pytest closes with a summary of its own, which has to stay the last line.
    if status and name != "tests":
        console.print(f"[bold red]{name} failed[/bold red] after {time.monotonic() - started:.0f} s")
    return status


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C reaches the tests too: they end what they have started, so they are waited for."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`./slipway`: makes the environment from the pinned requirements, then runs the command inside it.

Standard library only, Python 3.11+. The environment is in `SLIPWAY_VENV`, or `.venv` in the repository.
A stamp in it holds the digests of what was installed, so the second start is instant and a changed
requirements file installs again. A mark tells an interrupted installation: it is then made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).resolve().parents[2]
RUNTIME, DEVELOPMENT = "requirements.txt", "requirements-dev.txt"
STAMP, UNFINISHED, LOCK = "slipway-installed.json", "slipway-unfinished", "slipway-lock"


def main(arguments: Sequence[str]) -> int:
    """Install if need be, then become the command. Returns the exit status of an installation that failed."""
    environment = Path(os.environ.get("SLIPWAY_VENV") or REPOSITORY / ".venv").absolute()
    wanted = [RUNTIME, DEVELOPMENT] if arguments[:1] == ["test"] else [RUNTIME]
    try:
        if not is_installed(environment, wanted):
            _install_or_say_why(environment, wanted)
        become_command(environment, arguments)
    except InstallationError as failure:
        print(f"{failure.problem}\n  remedy: {failure.remedy}", file=sys.stderr)  # noqa: T201
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again: it starts over where it must.", file=sys.stderr)  # noqa: T201
        return 130
    return 1


def become_command(environment: Path, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by the command line of the installed project."""
    os.environ["PYTHONPATH"] = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'plugins'}"
    python = environment / "bin" / "python"
    # -P: a folder named serving where the user happens to be is not ours.
    os.execv(python, [str(python), "-P", "-m", "serving.cli", *arguments])


class InstallationError(Exception):
    """What went wrong, and what to do about it."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


def is_installed(environment: Path, wanted: Sequence[str]) -> bool:
    """Whether the environment holds what these requirements files say today."""
    try:
        stamp = json.loads((environment / STAMP).read_text())
    except (OSError, ValueError):
        return False
    unfinished = (environment / UNFINISHED).exists()
    return not unfinished and all(stamp.get(name) == _digest(name) for name in wanted)


def _install_or_say_why(environment: Path, wanted: Sequence[str]) -> None:
    try:
        install(environment, wanted)
    except OSError as error:
        raise InstallationError(
            f"Nothing can be installed into {environment}: {error.strerror or error}",
            "Make room there and let this account write there, or name another folder by SLIPWAY_VENV.",
        ) from error


def install(environment: Path, wanted: Sequence[str]) -> None:
    """Make the environment. Of two at once the second waits and finds it done."""
    environment.mkdir(parents=True, exist_ok=True)
    with _only_one(environment / LOCK):
        if is_installed(environment, wanted):
            return
        if (environment / UNFINISHED).exists() or not _python_works(environment):
            _make_empty(environment)
        (environment / UNFINISHED).touch()
        # What is installed already stays installed: tests after a plain start add to it.
        stamp = {name: _digest(name) for name in {*wanted, *_stamped(environment)}}
        _install_packages(environment, sorted(stamp))
        (environment / STAMP).write_text(json.dumps(stamp))
        (environment / UNFINISHED).unlink()


def _digest(requirements: str) -> str:
    return hashlib.sha256((REPOSITORY / requirements).read_bytes()).hexdigest()


def _stamped(environment: Path) -> list[str]:
    try:
        names = json.loads((environment / STAMP).read_text())
        return [name for name in names if (REPOSITORY / name).exists()]
    except (OSError, ValueError):
        return []


def _python_works(environment: Path) -> bool:
    probe = "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))"
    python = environment / "bin" / "python"
    return python.exists() and subprocess.run([python, "-c", probe], check=False).returncode == 0


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Another ./slipway is installing; waiting for it ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_empty(environment: Path) -> None:
    for entry in environment.iterdir():
        if entry.name != LOCK:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    uv = shutil.which("uv")
    if uv:
        _run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, environment])
    elif _has_ensurepip():
        _run([sys.executable, "-m", "venv", environment])
    else:
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        raise InstallationError("Python's venv module is not installed here.", f"apt-get install {package}")


def _has_ensurepip() -> bool:
    """Debian ships Python without it, and venv fails halfway."""
    probe = [sys.executable, "-c", "import ensurepip, venv"]
    return subprocess.run(probe, check=False, stderr=subprocess.DEVNULL).returncode == 0


def _install_packages(environment: Path, requirements: Sequence[str]) -> None:
    started = time.monotonic()
    count = sum(_count_packages(name) for name in requirements)
    files = [argument for name in requirements for argument in ("-r", str(REPOSITORY / name))]
    python = environment / "bin" / "python"
    if uv := shutil.which("uv"):
        _say(f"Installing {count} packages with uv into {environment} (once) ...")
        # Compiled now, by all cores: else the first start of the stack does it, in six processes at once.
        # Its progress is for a terminal; a log would get the name of every package.
        quiet = () if sys.stderr.isatty() else ("--quiet",)
        _run([uv, "pip", "install", *quiet, "--compile-bytecode", "--python", python, *files])
    else:
        _say(f"Installing {count} packages with pip into {environment} (once, some minutes) ...")
        _run_pip(python, files, count)
    _say(f"Installed in {time.monotonic() - started:.0f} s.")


def _count_packages(requirements: str) -> int:
    return sum("==" in line for line in (REPOSITORY / requirements).read_text().splitlines())


def _run_pip(python: Path, files: Sequence[str], count: int) -> None:
    """pip, with one counting line instead of thousands."""
    quiet = ("--disable-pip-version-check", "--progress-bar", "off")
    command = [str(python), "-m", "pip", "install", *quiet, *files]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    collected, tail = 0, ""
    for line in process.stdout:
        tail = line
        if line.startswith("Collecting "):
            collected += 1
            _show(f"  {collected}/{count} {line.split()[1]}")
        elif line.startswith("Installing collected packages"):
            _show("  downloaded; unpacking ...")
    _show("")
    if process.wait() != 0:
        raise _failed(command, tail)


def _run(command: Sequence[str | Path]) -> None:
    if subprocess.run(command, check=False).returncode != 0:
        raise _failed(command, "")


def _failed(command: Sequence[str | Path], words: str) -> InstallationError:
    return InstallationError(
        f"{Path(command[0]).name} failed. {words}".strip(),
        "Its words are above. Check the network and the free disk space (4 GB), then run the command again.",
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is the user's terminal


def _show(line: str) -> None:
    """Overwrite the last line on a terminal; say nothing in a log."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)  # noqa: T201 - this is the user's terminal


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

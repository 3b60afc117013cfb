"""The environment of other people's clients, and running a script in it.

Made once in `.venvs/` with pip, which is everywhere, or quicker with uv where that is there. The tests speak
to the clients through scripts: what the clients need cannot be installed beside Slipway (requirements.in).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_LOCK = HERE / "requirements.txt"
_FOLDER = HERE.parent.parent / ".venvs"


class Unreachable(Exception):  # noqa: N818 - a fact about this machine
    """The packages could not be had here."""


def run(script: str, *arguments: str) -> dict[str, Any]:
    """The JSON object that `script` of this folder writes. Raises `Unreachable`."""
    command = [str(python()), str(HERE / script), *arguments]
    # Nothing of Slipway's on the path: a client of somebody else's has none of it.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def python() -> Path:
    """The environment's Python, made when it is not there yet. Raises `Unreachable`."""
    wanted = hashlib.sha256(_LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = _FOLDER / f"clients-{wanted}"
    _FOLDER.mkdir(exist_ok=True)
    with (_FOLDER / "clients.lock").open("a") as lock:
        # Several test processes may want it at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder)
            (folder / "made").touch()
    return folder / "bin" / "python"


def _make(folder: Path) -> None:
    uv = shutil.which("uv")
    venv.create(folder, with_pip=uv is None, symlinks=True)
    chosen = str(folder / "bin" / "python")
    pip = [uv, "pip", "install", "-q", "--python", chosen] if uv else [chosen, "-m", "pip", "install", "-q"]
    done = subprocess.run(
        [*pip, "--require-hashes", "-r", str(_LOCK)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Unreachable(f"{_LOCK.name} cannot be installed: {done.stderr[-1000:]}")

"""A builder of engines in a process of its own, within a time limit, for stages and for pods.

The libraries are native and abort on some models; a crash or hang there must not take the caller along.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_store.installation import python_path


def built_apart(
    builder: str, request: Mapping[str, Any], folder: Path, time_limit_seconds: float
) -> dict[str, Any]:
    """What the builder, a module, left in the file that `request` calls `result`; a `reason`, in words, where
    it did not come to its end. `folder` is its own."""
    (folder / "request.json").write_text(json.dumps(request))
    failure = run_child([builder, str(folder / "request.json")], folder, time_limit_seconds)
    if failure:
        return {"reason": failure}
    result: dict[str, Any] = json.loads(Path(request["result"]).read_bytes())
    return result


def run_child(command: list[str], folder: Path, time_limit_seconds: float) -> str | None:
    """Run `python -m command`; None if it ended well, else what happened in words."""
    with (folder / "log.txt").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **python_path(*_python_path())},
            start_new_session=True,
        )
        try:
            status = child.wait(time_limit_seconds)
        except subprocess.TimeoutExpired:
            return f"the build took longer than {time_limit_seconds:g} s and was ended"
        finally:
            _end(child)
    return None if status == 0 else f"the builder {_ending(status)}: {_last_lines(folder / 'log.txt')}"


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _ending(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"failed with status {status}"


def _last_lines(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " / ".join(lines[-3:]) or "it said nothing"

"""A model's own Python: the interpreter it was logged with and its locked libraries, installed once.

From the wheels of its bundle, which takes neither uv nor a network; while a version is built, by uv.

Environments are shared by all pods and builds of a user on one machine, by the digest of what is in them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from model_store.engines.python.wheels import install_wheels
from model_store.errors import Permanent, Retryable, SlipwayError
from model_store.locks import locked

LOCK_FILE = "requirements.lock"
MODEL_FOLDER = "model"
_INSTALL_SECONDS = 1800.0
_MOST_TOLD = 400
# uv says these of an index that does not answer, never of requirements that cannot be.
_UNREACHABLE = re.compile(
    r"Failed to fetch|error sending request|timed out|Could not connect|dns error|tunnel error", re.I
)
_FRAME = re.compile(r"[×╰─▶│├➜]+")


class NoEnvironment(Permanent):
    """The model's own libraries cannot be had here."""


def environments(environ: Mapping[str, str] = os.environ) -> Path:
    """Where they are: SLIPWAY_ENVIRONMENTS, else the user's cache."""
    if named := environ.get("SLIPWAY_ENVIRONMENTS"):
        return Path(named)
    cache = environ.get("XDG_CACHE_HOME")
    try:
        return Path(cache or Path.home() / ".cache") / "slipway" / "environments"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / f"slipway-{os.getuid()}" / "environments"


def interpreter(
    lock: Path,
    python: str,
    *,
    beside: Path,
    wheels: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Path:
    """A Python ("3.11") with what the requirements file `lock` names; made where it is not there.

    `beside`: the model's folder, in which wheels of the lock may lie. `wheels`: a folder with all of them,
    where that is there. Raises `Permanent` (NoEnvironment), or `Retryable` while the index does not answer.
    """
    key = hashlib.sha256(python.encode() + b"\0" + lock.read_bytes()).hexdigest()[:24]
    root = environments(environ)
    made = root / key
    # Two pods that start at once want the same environment.
    with locked(root / f"{key}.lock"):
        if not (made / "complete").is_file():
            shutil.rmtree(made, ignore_errors=True)
            if wheels is not None and wheels.is_dir():
                _make_from(wheels, made, lock, find_python(python))
            else:
                _make(made, lock.resolve(), find_python(python), beside)
            (made / "complete").touch()
    return made / "bin" / "python"


def find_python(python: str) -> str:
    """The path of an interpreter of this minor version. Raises `Permanent` when there is none."""
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    if (found := shutil.which(f"python{python}")) is not None:
        return found
    try:
        return run_uv(["python", "find", "--no-project", "--no-python-downloads", "--system", python]).strip()
    except NoEnvironment as error:
        raise NoEnvironment(
            f"the model was logged with Python {python}, and there is none on this machine",
            remedy=f"install it where Slipway builds and where pods run (uv python install {python}), or log"
            f" the model with Python {sys.version_info.major}.{sys.version_info.minor}; an image of pods is"
            f" built with it by --build-arg BASE=python:{python}-slim (deploy/pod.Dockerfile)",
        ) from error


def run_uv(arguments: Sequence[str], *, cwd: Path | None = None) -> str:
    """What uv prints. Wheels only: nothing of what is installed runs meanwhile.

    Raises `Permanent` (NoEnvironment) with uv's own words; `Retryable` while the index does not answer.
    """
    command = [_uv(), *arguments]
    environ = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environ |= {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "UV_PYTHON_DOWNLOADS": "never"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=_INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise Retryable(
            f"uv {arguments[0]} took longer than {_INSTALL_SECONDS:g} s", remedy="check the package index"
        ) from error
    if done.returncode:
        raise _failure(done.stderr)
    return done.stdout


def _failure(said: str) -> SlipwayError:
    words = " ".join(_FRAME.sub(" ", said).split())[:_MOST_TOLD]
    if _UNREACHABLE.search(said):
        return Retryable(f"the package index does not answer: {words}", remedy="check the network")
    return NoEnvironment(words, remedy="correct the model's requirements")


def _uv() -> str:
    """The uv beside this Python (as `pip install uv` has it), else the one on the PATH."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise NoEnvironment(
            "there is no uv here, which installs a model's own libraries", remedy="pip install uv"
        )
    return found


def _make_from(wheels: Path, made: Path, lock: Path, python: str) -> None:
    """By Python's own `venv`, without an installer."""
    command = [python, "-m", "venv", "--without-pip", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    if done.returncode:
        raise NoEnvironment(f"{python} makes no environment: {done.stderr[:_MOST_TOLD]}", remedy="check it")
    install_wheels(wheels, lock, made)


def _make(made: Path, lock: Path, python: str, beside: Path) -> None:
    """Of nothing but wheels with the lock's hashes."""
    try:
        run_uv(["venv", "--quiet", "--no-project", "--python", python, str(made)])
        where = ["--python", str(made / "bin" / "python")]
        run_uv(
            [
                "pip",
                "sync",
                "--quiet",
                *where,
                "--require-hashes",
                "--no-build",
                str(lock),
            ],
            cwd=beside,
        )
    except NoEnvironment as error:
        raise NoEnvironment(
            f"the model's libraries cannot be installed: {error.problem}",
            remedy="log the model with requirements that the package index has as wheels for this machine",
        ) from error

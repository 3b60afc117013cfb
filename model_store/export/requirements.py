"""What a model's environment is made of: the Python and libraries it was logged with, locked by uv."""

from __future__ import annotations

import hashlib
import platform
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from model_store.engines.python.environment import (
    NoEnvironment,
    environments,
    find_python,
    interpreter,
    run_uv,
)
from model_store.export.base import NotExportable
from model_store.export.mlmodel import LoggedModel
from model_store.locks import locked as locking

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# The smallest MLflow that loads a pyfunc, where the model's own requirements name none.
_LOADER = "mlflow-skinny"
_OF_LOADER = ("pandas", "numpy")


def logged_python(logged: LoggedModel) -> str:
    """The minor version of the Python that saved it ("3.11"), since pickles and code are of one; this one
    where nothing is said.
    """
    said = (
        _yaml(logged.folder / "python_env.yaml").get("python"),
        *(
            line.partition("=")[2].lstrip("=")
            for line in _conda(logged)
            if isinstance(line, str) and re.match(r"python\s*=", line)
        ),
        logged.flavors.get("python_function", {}).get("python_version"),
    )
    version = next((str(one) for one in said if one), platform.python_version())
    return ".".join(version.split(".")[:2])


def locked(logged: LoggedModel, python: str, *, more: Sequence[str] = ()) -> bytes:
    """A requirements file with versions and hashes of all that the model needs, `more` included.

    Raises `Permanent` (NotExportable) with uv's own words, `Retryable` while the index does not answer.
    """
    wanted = "\n".join([*_with_loader(logged, requirements(logged)), *more]) + "\n"
    source = logged.folder / "slipway-requirements.in"
    interpreter = find_python(python)
    # In the model's folder: requirements may name constraints and wheels beside them.
    source.write_text(wanted)
    try:
        lock = run_uv(
            ["pip", "compile", "--quiet", "--python", interpreter, "--generate-hashes", "--no-header",
             "--no-annotate", "--no-build", source.name],
            cwd=logged.folder,
        )  # fmt: skip
    except NoEnvironment as error:
        raise NotExportable(
            f"the model's requirements cannot be resolved for Python {python}: {error.problem}",
            remedy="log it with pip_requirements that the package index has, as wheels, for this machine",
        ) from error
    finally:
        source.unlink()
    return lock.encode()


def own_interpreter(logged: LoggedModel, more: Sequence[str], work: Path) -> Path:
    """A Python with what the model was logged with and `more` beside it; its lock is written into `work`.

    Raises as `locked` does, and as `interpreter`.
    """
    python = logged_python(logged)
    lock = work / "requirements.lock"
    lock.write_bytes(locked(logged, python, more=more))
    return interpreter(lock, python, beside=logged.folder)


def wheels_of(lock: bytes, python: str, *, beside: Path) -> Path:
    """A folder with the wheels of a lock, fetched once for a machine. `beside`: the model's folder.

    By pip, which uv brings: uv keeps wheels unpacked. Raises `Permanent` (NotExportable), `Retryable` while
    the index does not answer.
    """
    root = environments()
    kept = root / f"wheels-{hashlib.sha256(python.encode() + lock).hexdigest()[:24]}"
    root.mkdir(parents=True, exist_ok=True)
    with locking(root / f"{kept.name}.lock"):
        if not kept.is_dir():
            with tempfile.TemporaryDirectory(dir=root, prefix="wheels.") as folder:
                _fetch_wheels(lock, python, Path(folder), beside)
                (Path(folder) / "wheels").rename(kept)
    return kept


def _fetch_wheels(lock: bytes, python: str, folder: Path, beside: Path) -> None:
    source = (folder / "requirements.txt").resolve()
    source.write_bytes(lock)
    (folder / "wheels").mkdir()
    pip = ["python", "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    try:
        run_uv(
            ["run", "--quiet", "--no-project", "--isolated", "--python", find_python(python), "--with", "pip",
             *pip, "--only-binary", ":all:", "--requirement", str(source),
             "--dest", str((folder / "wheels").resolve())],
            cwd=beside,
        )  # fmt: skip
    except NoEnvironment as error:
        raise NotExportable(
            f"the wheels of the model's libraries cannot be fetched: {error.problem}",
            remedy="check that pip reaches the package index that uv does (PIP_INDEX_URL, pip.conf)",
        ) from error


def requirements(logged: LoggedModel) -> list[str]:
    """The lines of requirements.txt, else of conda.yaml, else of python_env.yaml."""
    try:
        lines: Iterable[str] = (logged.folder / "requirements.txt").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        lines = _of_conda(logged) or _yaml(logged.folder / "python_env.yaml").get("dependencies") or []
    found = [str(line).strip() for line in lines]
    return [line for line in found if line and not line.startswith("#")]


def _with_loader(logged: LoggedModel, lines: list[str]) -> list[str]:
    names = {found.group().lower() for line in lines if (found := _NAME.match(line))}
    if names & {"mlflow", _LOADER}:
        missing = [name for name in _OF_LOADER if name not in names and "mlflow" not in names]
        return [*lines, *missing]
    version = str(logged.written.get("mlflow_version") or "")
    pinned = f"{_LOADER}=={version}" if re.fullmatch(r"\d+(\.\d+)*", version) else _LOADER
    return [*lines, pinned, *(name for name in _OF_LOADER if name not in names)]


def _of_conda(logged: LoggedModel) -> list[str]:
    """conda's own `name=version` becomes pip's; what pip is told to install follows."""
    own = [
        re.sub(r"(?<![=<>!~])=(?!=)", "==", line.split("::")[-1])
        for line in _conda(logged)
        if isinstance(line, str) and not re.match(r"(python|pip)\b", line)
    ]
    pip = [line for entry in _conda(logged) if isinstance(entry, dict) for line in entry.get("pip") or []]
    return [*own, *map(str, pip)]


def _conda(logged: LoggedModel) -> list[Any]:
    return list(_yaml(logged.folder / "conda.yaml").get("dependencies") or [])


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}

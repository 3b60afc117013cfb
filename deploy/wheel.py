"""Builds the wheel: the folders of the repository become packages below `slipway`.

In the repository `serving`, `model_store`, `demo`, `examples` and `dags` lie at the top, and import each
other by those names. In somebody's site-packages such names would meet other people's. So the build puts them
below one package and writes the new name into each import, and the command's into what people are told
(docs/decisions/0119).

It is hatchling's build hook (pyproject.toml). By hand it shows what would be installed:

    python deploy/wheel.py FOLDER
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "slipway"
# What moves below the package, and what keeps its name.
MOVED = ("model_store", "serving", "demo", "examples", "dags")
KEPT = {"plugins/slipway_airflow": "slipway_airflow"}
# Makes the environment of a clone.
LEFT_OUT = ("serving/local_stack/bootstrap.py",)

ABOUT = '"""Slipway: releases machine-learning models. The commands are `slipway --help`."""\n'

# Told to people: how a command is written down. `./slipway` is the clone's.
_TOLD = (
    (re.compile(r"(?<![\w.])\./slipway\b"), "slipway"),
    (re.compile(rf"(?<=python -m )(?=(?:{'|'.join(MOVED)})\b)"), f"{PACKAGE}."),
)


class WheelHook(BuildHookInterface):  # type: ignore[type-arg]
    """Lays the packages out in a folder of its own and hands that to hatchling."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # An editable installation is the repository itself: `plugins/slipway` knows the names there.
        if version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory(prefix="slipway-wheel-")
        lay_out(Path(self.root), Path(self._folder.name))
        for package in Path(self._folder.name).iterdir():
            build_data["force_include"][str(package)] = package.name

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._folder.cleanup()


def lay_out(repository: Path, folder: Path) -> None:
    """Write into `folder` what a site-packages gets. Raises `ValueError` for an import it cannot rename."""
    moves = {**{name: f"{PACKAGE}/{name}" for name in MOVED}, **KEPT}
    for source, target in moves.items():
        for file in _files(repository / source):
            written = file.relative_to(repository)
            if written.as_posix() not in LEFT_OUT:
                _put(file, folder / target / file.relative_to(repository / source))
    (folder / PACKAGE / "__init__.py").write_text(ABOUT)
    (folder / PACKAGE / "py.typed").touch()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)


def _put(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".py":
        target.write_text(renamed(file.read_text(), str(file)))
    elif file.suffix == ".html":
        target.write_text(_told(file.read_text()))
    else:
        shutil.copyfile(file, target)


def renamed(code: str, where: str = "<string>") -> str:
    """The code of a module with its imports from `MOVED` packages made from the package.

    Raises `ValueError` for `import serving.x` without `as`: it binds a name that then does not exist.
    """
    lines = code.splitlines(keepends=True)
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and _is_moved(node.module):
            _insert(lines, node, f"from {node.module}", f"from {PACKAGE}.{node.module}", where)
        elif isinstance(node, ast.Import):
            for name in node.names:
                if _is_moved(name.name) and name.asname is None:
                    raise ValueError(f"{where}:{node.lineno}: write `from {name.name} import ...`")
                if _is_moved(name.name):
                    _insert(lines, node, f"import {name.name}", f"import {PACKAGE}.{name.name}", where)
    return _told("".join(lines))


def _is_moved(module: str | None) -> bool:
    return (module or "").partition(".")[0] in MOVED


def _insert(lines: list[str], node: ast.stmt, written: str, wanted: str, where: str) -> None:
    line = lines[node.lineno - 1]
    if not line[node.col_offset :].startswith(written):
        raise ValueError(f"{where}:{node.lineno}: expected `{written}` to begin the statement")
    lines[node.lineno - 1] = line[: node.col_offset] + line[node.col_offset :].replace(written, wanted, 1)


def _told(text: str) -> str:
    for pattern, replacement in _TOLD:
        text = pattern.sub(replacement, text)
    return text


if __name__ == "__main__":
    lay_out(Path(__file__).resolve().parents[1], Path(sys.argv[1]))

"""Installs wheels from a folder, without a package index and without an installer: what a pod has.

Each has to have a hash of the lock. A wheel is a zip of what belongs into `site-packages`, but for the folder
`NAME.data`, whose parts have places of their own.
Source: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from model_store.durable import digest_file
from model_store.errors import Permanent

WHEELS_FOLDER = "wheels"
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PINNED = re.compile(r"^[A-Za-z0-9./@]", re.M)
# Modules. Scripts, headers and manuals are of no use to a model.
_OF_MODULES = ("purelib", "platlib")
_BLOCK = 1 << 20


def install_wheels(wheels: Path, lock: Path, prefix: Path) -> None:
    """Into the environment at `prefix`. Raises `Permanent` for too few, and for one that was not locked."""
    text = lock.read_text()
    known = set(_HASH.findall(text))
    found = sorted(wheels.glob("*.whl"))
    if len(found) != (named := len(_PINNED.findall(text))):
        raise _wrong(f"{wheels} holds {len(found)} wheels, the lock names {named}")
    (site,) = prefix.glob("lib/python*/site-packages")
    for wheel in found:
        if digest_file(wheel).removeprefix("sha256:") not in known:
            raise _wrong(f"{wheel.name} is not the file that was locked")
        _unpack(wheel, site, prefix)


def _unpack(wheel: Path, site: Path, prefix: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for entry, target in _placed(wheel, archive, site, prefix):
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, target.open("wb") as written:
                shutil.copyfileobj(source, written, _BLOCK)
            # Some libraries start programs that they bring.
            target.chmod((entry.external_attr >> 16 & 0o777) | 0o644)


def _placed(
    wheel: Path, archive: zipfile.ZipFile, site: Path, prefix: Path
) -> Iterator[tuple[zipfile.ZipInfo, Path]]:
    for entry in archive.infolist():
        parts = PurePosixPath(entry.filename).parts
        if entry.is_dir() or not parts:
            continue
        if entry.filename.startswith("/") or ".." in parts:
            raise _wrong(f"{wheel.name} holds {entry.filename}")
        if not parts[0].endswith(".data"):
            yield entry, site.joinpath(*parts)
        elif len(parts) > 2 and parts[1] in _OF_MODULES:
            yield entry, site.joinpath(*parts[2:])
        elif len(parts) > 2 and parts[1] == "data":
            yield entry, prefix.joinpath(*parts[2:])


def _wrong(problem: str) -> Permanent:
    return Permanent(problem, remedy="release the version again; check who writes there")

"""A folder as one file and back: what of a model that is served as it is goes into the store."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from model_store.errors import Permanent


def pack(folder: Path, target: Path) -> None:
    """The same files give the same bytes: neither times nor owners are kept, and links are followed."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(entry, file)


def unpack(archive: Path, folder: Path) -> list[str]:
    """Write its files below `folder`; returns their paths in it. Raises `Permanent` for what `pack` never
    wrote.
    """
    written = []
    with tarfile.open(archive) as opened:
        for entry in opened:
            path = PurePosixPath(entry.name)
            content = opened.extractfile(entry) if entry.isfile() else None
            if content is None or path.is_absolute() or ".." in path.parts:
                raise Permanent(f"{archive} holds {entry.name}", remedy="release the version again")
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file)
            written.append(entry.name)
    return written

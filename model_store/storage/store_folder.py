"""The folder of a store on this machine: what is in it, and removing that whole."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from model_store.durable import discard
from model_store.storage.shared import Kind, StoredItem

# What is being written now, below the store's folder.
TMP = "tmp"
# What can be fetched again, of `data` with another name.
FETCHED: tuple[Kind, ...] = ("artifacts", "blobs", "data")


def kept(root: Path, kind: Kind) -> Iterator[StoredItem]:
    """Everything of one kind that is here."""
    for path in sorted((root / kind).glob("*/*.json" if kind == "memo" else "*")):
        with suppress(FileNotFoundError):
            name = path.relative_to(root / kind).as_posix()
            yield StoredItem(kind, name, _size(path), path.stat().st_mtime)


def remove(root: Path, kind: Kind, name: str, oldest: float = math.inf) -> bool:
    """Remove one thing, whole for whoever reads it now. False: it was used since `oldest`, and stays."""
    path = root / kind / name
    if kind in ("artifacts", "bundles", "data"):
        return discard(path, root / TMP, unless=lambda gone: gone.stat().st_mtime >= oldest)
    with suppress(FileNotFoundError):
        if path.stat().st_mtime >= oldest:
            return False
        path.unlink()
    return True


def shrink(root: Path, limit_bytes: int, *, unused_since: float) -> None:
    """Remove what was used longest ago, of what a bucket has too, until it is within the limit.

    Bundles stay until retention removes them: pods of this machine may serve from here.
    """
    total = 0
    these = [one for kind in FETCHED for one in kept(root, kind)]
    for one in sorted(these, key=lambda one: -one.used_at):
        total += one.size_bytes
        if total > limit_bytes and one.used_at < unused_since:
            remove(root, one.kind, one.name)


def forget_partial(root: Path, *, unused_since: float) -> None:
    """Remove what downloads left that nobody went on with."""
    for path in (root / "partial").glob("*"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < unused_since:
                shutil.rmtree(path, ignore_errors=True)


def _size(path: Path) -> int:
    """Bytes of a file or of all files in a directory; what vanishes meanwhile counts nothing."""
    try:
        return path.stat().st_size if path.is_file() else sum(_size(inner) for inner in path.iterdir())
    except FileNotFoundError:
        return 0

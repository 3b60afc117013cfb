"""Forgetting what no bundle that is kept needs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from model_store.storage.store import Store


@dataclass(frozen=True, slots=True)
class Garbage:
    """What nothing needs: directories of bundles and artifacts, and files of blobs.

    Memos are not counted: they are small, and which are void shows when the rest is gone.
    """

    bundles: tuple[Path, ...]
    artifacts: tuple[Path, ...]
    blobs: tuple[Path, ...]

    @property
    def size_bytes(self) -> int:
        """What removing them gives back."""
        return sum(_size(path) for path in (*self.bundles, *self.artifacts, *self.blobs))


@dataclass(frozen=True, slots=True)
class Collected:
    """What garbage collection removed: ids, digests (hex), how many blobs and memos, and how much it was."""

    bundles: tuple[str, ...]
    artifacts: tuple[str, ...]
    blobs: int
    memos: int
    size_bytes: int


def find_garbage(
    store: Store, *, keep: Iterable[str], now: datetime, grace: timedelta, blobs: Iterable[str] = ()
) -> Garbage:
    """Bundles not named in `keep`, the artifacts that no kept one refers to, and blobs not in `blobs`.

    What was made or used less than `grace` before `now` is no garbage: a build in flight needs it.
    """
    kept, oldest = set(keep), (now - grace).timestamp()
    bundles = [path for path in _aged(store, "bundles/*", oldest) if path.name not in kept]
    needed = set(_needed(store, without=set(bundles)))
    artifacts = [path for path in _aged(store, "artifacts/*", oldest) if path.name not in needed]
    named = {digest.removeprefix("sha256:") for digest in blobs}
    others = [path for path in _aged(store, "blobs/*", oldest) if path.name not in named]
    return Garbage(tuple(bundles), tuple(artifacts), tuple(others))


def collect_garbage(
    store: Store, *, keep: Iterable[str], now: datetime, grace: timedelta, blobs: Iterable[str] = ()
) -> Collected:
    """Remove what `find_garbage` finds, and the memos that are void then.

    What is used while this runs is young again, and stays.
    """
    store.sweep()
    found = find_garbage(store, keep=keep, blobs=blobs, now=now, grace=grace)
    size, oldest = found.size_bytes, (now - grace).timestamp()
    bundles = [path for path in found.bundles if _is_older(path, oldest) and store.remove(path, oldest)]
    artifacts = [path for path in found.artifacts if _is_older(path, oldest) and store.remove(path, oldest)]
    unlinked = _unlink(path for path in found.blobs if _is_older(path, oldest))
    memos = _unlink(path for path in _aged(store, "memo/*/*.json", oldest) if not store.remembers(path))
    return Collected(_names(bundles), _names(artifacts), unlinked, memos, size)


def _aged(store: Store, pattern: str, oldest: float) -> list[Path]:
    return [path for path in sorted(store.root.glob(pattern)) if _is_older(path, oldest)]


def _needed(store: Store, *, without: Collection[Path]) -> Iterator[str]:
    """Hex digests of the artifacts that the other bundles name."""
    for manifest in sorted(store.root.glob("bundles/*/manifest.json")):
        if manifest.parent in without:
            continue
        try:
            artifacts = json.loads(manifest.read_bytes())["artifacts"]
        except (OSError, ValueError, KeyError):
            continue
        yield from (artifact["digest"].removeprefix("sha256:") for artifact in artifacts)


def _names(paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(path.name for path in paths)


def _unlink(paths: Iterable[Path]) -> int:
    gone = list(paths)
    for path in gone:
        path.unlink(missing_ok=True)
    return len(gone)


def _size(path: Path) -> int:
    """Bytes of a file or of all files in a directory; what vanishes meanwhile counts nothing."""
    try:
        return path.stat().st_size if path.is_file() else sum(_size(inner) for inner in path.iterdir())
    except FileNotFoundError:
        return 0


def _is_older(path: Path, timestamp: float) -> bool:
    try:
        return path.stat().st_mtime < timestamp
    except FileNotFoundError:
        return False

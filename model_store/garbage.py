"""Forgetting what no bundle that is kept needs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from model_store.store import Store


@dataclass(frozen=True, slots=True)
class Collected:
    """What garbage collection removed: ids, digests (hex), and how many blobs and memos."""

    bundles: tuple[str, ...]
    artifacts: tuple[str, ...]
    blobs: int
    memos: int


def collect_garbage(store: Store, *, keep: Iterable[str], now: datetime, grace: timedelta) -> Collected:
    """Remove bundles not named in `keep`, then artifacts, blobs and memos that nothing kept refers to.

    What was made or used less than `grace` before `now` stays: a build in flight needs it.
    """
    kept, oldest = set(keep), (now - grace).timestamp()
    store.sweep()
    bundles = [path for path in _aged(store, "bundles/*", oldest) if path.name not in kept]
    for path in bundles:
        store.remove(path)
    needed = set(_needed(store))
    artifacts = [path for path in _aged(store, "artifacts/*", oldest) if path.name not in needed]
    for path in artifacts:
        store.remove(path)
    blobs = _unlink(_aged(store, "blobs/*", oldest))
    memos = _unlink(path for path in _aged(store, "memo/*/*.json", oldest) if not store.remembers(path))
    return Collected(_names(bundles), _names(artifacts), blobs, memos)


def _aged(store: Store, pattern: str, oldest: float) -> list[Path]:
    return [path for path in sorted(store.root.glob(pattern)) if _is_older(path, oldest)]


def _needed(store: Store) -> Iterator[str]:
    """Hex digests of the artifacts that the bundles still there name."""
    for manifest in sorted(store.root.glob("bundles/*/manifest.json")):
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


def _is_older(path: Path, timestamp: float) -> bool:
    try:
        return path.stat().st_mtime < timestamp
    except FileNotFoundError:
        return False

"""Forgetting what no bundle that is kept needs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from model_store.storage.base import Missing
from model_store.storage.shared import Kind, StoredItem
from model_store.storage.store import Store


@dataclass(frozen=True, slots=True)
class Garbage:
    """What nothing needs: bundles, artifacts and blobs.

    Memos are not counted: they are small, and which are void shows when the rest is gone.
    """

    bundles: tuple[StoredItem, ...]
    artifacts: tuple[StoredItem, ...]
    blobs: tuple[StoredItem, ...]

    @property
    def size_bytes(self) -> int:
        """What removing them gives back."""
        return sum(one.size_bytes for one in (*self.bundles, *self.artifacts, *self.blobs))


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
    bundles = [one for one in _aged(store, "bundles", oldest) if one.name not in kept]
    needed = set(_needed(store, without={one.name for one in bundles}))
    artifacts = [one for one in _aged(store, "artifacts", oldest) if one.name not in needed]
    named = {digest.removeprefix("sha256:") for digest in blobs}
    others = [one for one in _aged(store, "blobs", oldest) if one.name not in named]
    return Garbage(tuple(bundles), tuple(artifacts), tuple(others))


def collect_garbage(
    store: Store, *, keep: Iterable[str], now: datetime, grace: timedelta, blobs: Iterable[str] = ()
) -> Collected:
    """Remove what `find_garbage` finds, and the memos that are void then.

    What is used while this runs is young again, and stays.
    """
    store.sweep()
    found = find_garbage(store, keep=keep, blobs=blobs, now=now, grace=grace)
    oldest = (now - grace).timestamp()
    bundles, artifacts, unneeded = (
        _removed(store, those, oldest) for those in (found.bundles, found.artifacts, found.blobs)
    )
    void = [one for one in _aged(store, "memo", oldest) if not store.remembers(one.name)]
    memos = _removed(store, void, oldest)
    return Collected(bundles, artifacts, len(unneeded), len(memos), found.size_bytes)


def _aged(store: Store, kind: Kind, oldest: float) -> list[StoredItem]:
    return [one for one in store.kept(kind) if one.used_at < oldest]


def _needed(store: Store, *, without: Collection[str]) -> Iterator[str]:
    """Hex digests of the artifacts that the other bundles name."""
    for bundle in store.kept("bundles"):
        if bundle.name in without:
            continue
        try:
            artifacts = json.loads(store.manifest(bundle.name))["artifacts"]
        except (Missing, ValueError, KeyError):
            continue
        yield from (artifact["digest"].removeprefix("sha256:") for artifact in artifacts)


def _removed(store: Store, those: Iterable[StoredItem], oldest: float) -> tuple[str, ...]:
    return tuple(one.name for one in those if store.remove(one.kind, one.name, oldest))

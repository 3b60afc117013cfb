"""Objects that are written once, from one storage to another: request logs of pods, for whoever reads them.

    python -m model_store.storage sync file:///REQUESTS s3://models/requests --every 30 --add-name POD
    python -m model_store.storage sync s3://models/requests file:///REQUESTS --every 30 --max-mb 256

The first beside a pod, the second beside the controller, which compares versions on recorded requests, and
before a pod that warms its cache. What is there already is not copied again, the newest comes first, and a
copy is whole or not there. Nothing is removed anywhere: a bucket has lifecycle rules.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from model_store.storage.base import Missing, ObjectStorage, StoredObject
from model_store.storage.folder import FolderStorage


@dataclass(frozen=True, slots=True)
class Which:
    """Which objects are meant. `max_bytes`: of the newest ones, 0 for all. `since`: written then or later.

    `added`: put into the names at the target, so that several sources do not meet.
    """

    pattern: str = "*.parquet"
    max_bytes: int = 0
    since: float = 0.0
    added: str = ""

    def of(self, storage: ObjectStorage) -> Iterator[StoredObject]:
        """The objects, the newest first."""
        room = self.max_bytes
        for one in sorted(storage.list(""), key=lambda one: (-one.used_at, one.key)):
            if one.used_at < self.since or not fnmatch.fnmatch(one.key.rpartition("/")[2], self.pattern):
                continue
            if self.max_bytes and (room := room - one.size_bytes) < 0:
                return
            yield one

    def name(self, key: str) -> str:
        """The key at the target."""
        path = PurePosixPath(key)
        return str(path.with_name(f"{path.stem}-{self.added}{path.suffix}")) if self.added else key


def copy_new(source: ObjectStorage, target: ObjectStorage, which: Which) -> list[str]:
    """Copy what the target has not; returns the keys there. What vanishes meanwhile is left out.

    Raises `Permanent` and `Retryable`; may be repeated.
    """
    there = {one.key: one.size_bytes for one in target.list("")}
    wanted = [one for one in which.of(source) if there.get(which.name(one.key)) != one.size_bytes]
    return list(_copied(source, target, wanted, which))


def _copied(
    source: ObjectStorage, target: ObjectStorage, wanted: Iterable[StoredObject], which: Which
) -> Iterator[str]:
    for one in wanted:
        key = which.name(one.key)
        try:
            if isinstance(source, FolderStorage):
                target.put_file(key, source.root / one.key)
            else:
                # A file of a log: as large as a pod writes one.
                target.put(key, source.get(one.key))
        except (Missing, FileNotFoundError):
            continue
        yield key

"""A storage in memory: the double for tests, held to the same contract as the real ones.

`before` is called with the operation and the key ahead of each: it may raise, wait, or change what is stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from model_store.storage.base import CHUNK_BYTES, StoredObject, checked, missing

Before = Callable[[str, str], None]


class MemoryStorage:
    """Objects in a dictionary. `clock` gives the seconds since 1970."""

    def __init__(
        self, *, clock: Callable[[], float] = time.time, before: Before = lambda operation, key: None
    ) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.before = before
        self._clock = clock

    @property
    def url(self) -> str:
        """See `ObjectStorage`, as all of these."""
        return "memory://storage"

    def get(self, key: str) -> bytes:
        return b"".join(self.stream(key))

    def stream(self, key: str, start: int = 0) -> Iterator[bytes]:
        self.before("get", checked(key))
        if key not in self.objects:
            raise missing(self.url, key)
        content = self.objects[key][0]
        for begin in range(start, len(content), CHUNK_BYTES):
            self.before("piece", key)
            yield content[begin : begin + CHUNK_BYTES]

    def head(self, key: str) -> StoredObject | None:
        self.before("head", checked(key))
        return self._seen(key) if key in self.objects else None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        self.before("list", checked(prefix) if prefix else "")
        for key in [key for key in self.objects if not prefix or key.startswith(f"{prefix}/")]:
            yield self._seen(key)

    def put(self, key: str, content: bytes) -> None:
        self.before("put", checked(key))
        self.objects[key] = (bytes(content), self._clock())

    def create(self, key: str, content: bytes) -> bool:
        self.before("create", checked(key))
        if key in self.objects:
            return False
        self.objects[key] = (bytes(content), self._clock())
        return True

    def put_file(self, key: str, source: Path) -> None:
        self.put(key, source.read_bytes())

    def touch(self, key: str) -> None:
        self.before("touch", checked(key))
        if key in self.objects:
            self.objects[key] = (self.objects[key][0], self._clock())

    def delete(self, key: str) -> None:
        self.before("delete", checked(key))
        self.objects.pop(key, None)

    def _seen(self, key: str) -> StoredObject:
        content, used_at = self.objects[key]
        return StoredObject(key, len(content), used_at)

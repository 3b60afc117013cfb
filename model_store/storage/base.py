"""The port: objects under keys, wherever they are kept. `model_store.storage.opening` makes one of a URL.

Every implementation passes `tests/contract/storage_contract.py`. None of them checks what the bytes are: who
reads by digest does, where the bytes arrive (`model_store.storage.transfer`, `Store`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from model_store.errors import Permanent

# One read of a stream, and one part of an upload (S3 takes parts from 5 MiB on, and 10,000 of them).
CHUNK_BYTES = 1 << 20
PART_BYTES = 16 << 20


class Corrupt(Permanent):
    """Stored bytes are not what their digest says."""


class Missing(Permanent):
    """Nothing is stored under this name."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a storage knows of an object. `used_at`: written or touched last, in seconds since 1970."""

    key: str
    size_bytes: int
    used_at: float


class ObjectStorage(Protocol):
    """Objects by key: path segments with `/` between them, below the URL.

    An object is there whole or not at all, and of two writers of one key the later one wins. All methods
    raise `Permanent` for what stays wrong (credentials, rights, a bucket that is not there) and `Retryable`
    for what may pass; both name the URL.
    """

    @property
    def url(self) -> str:
        """Where this is, without credentials."""
        ...

    def get(self, key: str) -> bytes:
        """The whole object. Raises `Missing`."""
        ...

    def stream(self, key: str, start: int = 0) -> Iterator[bytes]:
        """The object's bytes from `start` on, in pieces. Raises `Missing` with the first one."""
        ...

    def head(self, key: str) -> StoredObject | None:
        """What is known of the object; None where there is none."""
        ...

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects below `prefix`, which is whole segments, in no order. "" is everything."""
        ...

    def put(self, key: str, content: bytes) -> None:
        """Keep bytes that fit into memory."""
        ...

    def create(self, key: str, content: bytes) -> bool:
        """Keep the bytes unless the key is taken. False: it is, by whomever, and nothing was written."""
        ...

    def put_file(self, key: str, source: Path) -> None:
        """Keep a file of any size, in parts: it is never whole in memory."""
        ...

    def touch(self, key: str) -> None:
        """Count the object as used now. No error where there is none."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object. Gone already is no error."""
        ...


def checked(key: str) -> str:
    """The key. Raises `Permanent` for one that could lead out of the storage, or mean another one."""
    segments = key.split("/")
    if any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in segments):
        raise Permanent(
            f"{key!r} is no key of an object",
            remedy="use names with one / between them, none of them . or ..",
        )
    return key


def missing(url: str, key: str) -> Missing:
    """The error for a key that nothing is stored under."""
    return Missing(
        f"there is no {key} in {url}", remedy="run the stage again that made it, or check the name"
    )

"""Bytes that come from a storage: verified where they arrive, in little memory, resumed after a crash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from model_store.durable import canonical_json, digest_bytes, publish_file
from model_store.errors import Retryable
from model_store.locks import locked
from model_store.storage.base import CHUNK_BYTES, Corrupt, ObjectStorage, missing
from model_store.storage.folder import FolderStorage
from model_store.storage.opening import open_storage, split
from model_store.unwritable import naming

# A connection that breaks is taken up again as long as each one brings something.
_FRUITLESS = 3


def get_verified(storage: ObjectStorage, key: str, digest: str) -> bytes:
    """An object that fits into memory. Raises `Missing`, and `Corrupt` when its bytes are not `digest`."""
    content = storage.get(key)
    if (found := digest_bytes(content)) != digest:
        raise corrupt(storage, key, digest, found)
    return content


def download(storage: ObjectStorage, key: str, digest: str, path: Path) -> None:
    """Put the object's bytes at `path`: whole and verified, or not at all.

    What was fetched before a crash is in `<path>.part` and is not fetched again. Raises `Missing`, `Corrupt`.
    """
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), _first(path) as is_first:
        if not is_first:
            return
        is_resumed = part.exists() and part.stat().st_size > 0
        found = _fetched(storage, key, part)
        if found != digest and is_resumed:
            # What lay there may be of another time: once from the beginning.
            part.unlink()
            found = _fetched(storage, key, part)
        if found != digest:
            part.unlink()
            raise corrupt(storage, key, digest, found)
        publish_file(part, path)


def local_copy(url: str, folder: Path) -> Path:
    """A file that holds the object at `url` as it is now, below `folder` unless it is a file already.

    What was fetched once is not fetched again until the object changes. Raises `Missing`.
    """
    place, key = split(url)
    storage = open_storage(place)
    if isinstance(storage, FolderStorage):
        return storage.root / key
    known = storage.head(key)
    if known is None:
        raise missing(storage.url, key)
    version = digest_bytes(canonical_json([url, known.size_bytes, known.used_at]))
    path = folder / version.removeprefix("sha256:")[:24] / key
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), _first(path) as is_first:
        if is_first:
            draft = path.with_name(f"{key}.part")
            draft.unlink(missing_ok=True)
            _fetched(storage, key, draft)
            publish_file(draft, path)
    return path


def corrupt(storage: ObjectStorage, key: str, digest: str, found: str) -> Corrupt:
    """The error for bytes that are not what was asked for."""
    return Corrupt(
        f"{key} in {storage.url} should be {digest} but its bytes are {found}",
        remedy="remove it there and run the release again; see who writes there",
    )


def only_one(lock: Path) -> AbstractContextManager[None]:
    """One process of this machine at a time, of whatever account; the others wait."""
    return locked(lock, mode=0o666)


@contextmanager
def _first(path: Path) -> Iterator[bool]:
    """One process at a time makes `path`: whether it is still to be made. The lock goes when it is there."""
    lock = path.with_name(f"{path.name}.lock")
    with only_one(lock):
        yield not path.exists()
        # Who waits for it, or makes another one, finds the file.
        if path.exists():
            lock.unlink(missing_ok=True)


def _fetched(storage: ObjectStorage, key: str, part: Path) -> str:
    """Complete `part`; returns the digest of all of it."""
    fruitless = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _appended(storage, key, part)
        except Retryable:
            fruitless = 0 if part.stat().st_size > before else fruitless + 1
            if fruitless == _FRUITLESS:
                raise


def _appended(storage: ObjectStorage, key: str, part: Path) -> str:
    sha = hashlib.sha256()
    with part.open("a+b") as file:
        file.seek(0)
        while piece := file.read(CHUNK_BYTES):
            sha.update(piece)
        known = storage.head(key)
        if known is None or file.tell() < known.size_bytes or known.size_bytes == 0:
            for piece in storage.stream(key, file.tell()):
                file.write(piece)
                sha.update(piece)
    return f"sha256:{sha.hexdigest()}"

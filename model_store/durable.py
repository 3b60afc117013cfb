"""Writes that a crash cannot tear: everything appears whole under its final name, or not at all.

A directory or file is written under a temporary name, flushed to disk (fsync of files and directories), and
renamed; rename is atomic on one POSIX file system. Temporary directories are owned through a lock (flock)
that the kernel drops with its process, so what a killed writer left can be told from what is being written.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from model_store.unwritable import naming

_CHUNK_BYTES = 1 << 20


def canonical_json(value: Any) -> bytes:
    """One byte string per value: sorted keys, no spaces, no NaN. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest_bytes(content: bytes) -> str:
    """`sha256:<hex>` of the bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def digest_file(path: Path) -> str:
    """`sha256:<hex>` of the file, read in pieces."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            sha.update(piece)
    return f"sha256:{sha.hexdigest()}"


def write_file(path: Path, content: bytes, *, area: Path | None = None) -> None:
    """Replace `path` atomically. It is written under `area` (default: beside it) first, which `sweep` clears
    after a crash. Of several writers at once the last one wins, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = area or path.parent
    with naming(folder / path.name), staging(folder) as directory:
        temporary = directory / "file"
        temporary.write_bytes(content)
        publish_file(temporary, path)


def create_secret(path: Path, content: bytes) -> bool:
    """Make a file that only its owner may read, unless it is there: of several at once one makes it, whole.

    Returns whether it was made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    draft = Path(name)
    try:
        with naming(path):
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            return publish_file(draft, path, replacing=False)
    finally:
        draft.unlink()


def publish_file(draft: Path, path: Path, *, replacing: bool = True) -> bool:
    """Flush a file and give it its final name, on the same file system. False: unless `replacing`, when
    something has that name already.
    """
    _sync_file(draft)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # A link fails where a rename would overwrite.
        draft.replace(path) if replacing else os.link(draft, path)
    except FileExistsError:
        return False
    _sync_directory(path.parent)
    return True


def take_place(source: Path, path: Path) -> None:
    """Replace `path` by a file that `write_file` made beside it earlier. A full disk does not prevent it."""
    source.replace(path)
    with suppress(OSError):
        _sync_directory(path.parent)


@contextmanager
def staging(area: Path) -> Iterator[Path]:
    """A fresh directory under `area`, removed on exit unless it was moved away with `settle`."""
    area.mkdir(parents=True, exist_ok=True)
    lock_path, descriptor = _own(area)
    directory = lock_path.with_suffix("")
    try:
        directory.mkdir()
        yield directory
    except OSError as error:
        # The system names no file when a write fails.
        if error.errno and not error.filename:
            error.filename = str(directory)
        raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        lock_path.unlink(missing_ok=True)
        os.close(descriptor)


def settle(directory: Path, final: Path) -> bool:
    """Flush a staged directory and give it its final name. False: somebody else's is already there."""
    _sync_tree(directory)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        directory.rename(final)
    except OSError:
        if final.is_dir():
            return False
        raise
    _sync_directory(final.parent)
    return True


def let_everybody_read(directory: Path) -> None:
    """Whatever the umask is: pods read a bundle as another user than the one who made it. Who may come near
    the directory is said by those above it.
    """
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def supersede(directory: Path, final: Path) -> bool:
    """As `settle`, in place of what has the name now, which goes only when the new one is on the disk.

    For the moment between two renames nothing has the name.
    """
    _sync_tree(directory)
    with staging(directory.parent) as aside:
        with suppress(FileNotFoundError):
            final.rename(aside / "superseded")
        return settle(directory, final)


def discard(directory: Path, area: Path, *, unless: Callable[[Path], bool] = lambda _: False) -> bool:
    """Remove a directory so that a reader sees it whole or not at all. Gone already is no error.

    `unless` is asked when nobody can find it any more; if it says so, the directory gets its name back, or
    makes way for another that has it by then. False: it was not removed.
    """
    with staging(area) as staged:
        aside = staged / "discarded"
        try:
            directory.rename(aside)
        except FileNotFoundError:
            return True
        if not unless(aside):
            return True
        with suppress(OSError):
            aside.rename(directory)
        return False


def sweep(area: Path) -> list[str]:
    """Remove staging directories whose writer is dead; returns their names. Living writers are left alone."""
    return [path.stem for path in sorted(area.glob("*.lock")) if _sweep_one(path)]


def _sweep_one(lock_path: Path) -> bool:
    try:
        descriptor = os.open(lock_path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(lock_path.with_suffix(""), ignore_errors=True)
        lock_path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _own(area: Path) -> tuple[Path, int]:
    """A lock file of our own. A sweeper may remove it between open and flock: then take another name."""
    while True:
        lock_path = area / f"{uuid.uuid4().hex}.lock"
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if lock_path.exists():
            return lock_path, descriptor
        os.close(descriptor)


def _sync_tree(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_dir():
            _sync_directory(path)
        else:
            _sync_file(path)
    _sync_directory(directory)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Folders of files in a store: a list of digests, found by its own digest or, where it changes, by a name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from model_store.durable import canonical_json
from model_store.storage.base import Missing, checked
from model_store.storage.store import Store


def pack(store: Store, folder: Path) -> str:
    """Keep a folder's files; returns the digest of their list."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {path.relative_to(folder).as_posix(): store.put_file(path) for path in files}
    return store.put_bytes(canonical_json({"files": listed}))


def unpack(store: Store, digest: str, folder: Path) -> None:
    """Bring what `pack` kept to a folder. Raises `Permanent` (Missing, Corrupt)."""
    listed: Mapping[str, str] = json.loads(store.get_bytes(digest))["files"]
    for name, content in listed.items():
        path = folder / checked(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store.file(content, path.name), path)


def share(store: Store, name: str, folder: Path) -> None:
    """Let other machines find the folder as it is now. Does nothing where there are none."""
    if store.shared and folder.is_dir():
        store.shared.storage.put(f"names/{checked(name)}", pack(store, folder).encode())


def bring(store: Store, name: str, folder: Path) -> None:
    """The folder as a machine shared it last, unless there is one here. Does nothing where nobody has."""
    if store.shared is None or folder.is_dir():
        return
    try:
        unpack(store, store.shared.storage.get(f"names/{checked(name)}").decode(), folder)
    except Missing:
        # Nobody made it, or it was too old to be kept.
        shutil.rmtree(folder, ignore_errors=True)

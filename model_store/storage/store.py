"""Where builds keep what they made: artifacts by content, memos by inputs, bundles by identity.

    artifacts/<sha256 hex>/model.onnx | model.tar, meta.json
    blobs/<sha256 hex>       other bytes a later stage needs
    memo/<stage>/<digest of the inputs>.json
    bundles/<id>/            a Triton model repository and its manifest (`model_store.bundle.publishing`)
    tmp/                     what is being written now

Everything is written aside, flushed and renamed, so that a killed process leaves nothing half made and two
processes that make the same thing both succeed. What is read is verified against its digest.

Where `SLIPWAY_STORAGE_URL` names a bucket, that has what counts (`model_store.storage.shared`), and the
folder is what engines read from: filled from the bucket, verified, and bounded.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from model_store.attestation import VARIABLE as TRUSTED_VARIABLE
from model_store.attestation import Trusted
from model_store.durable import canonical_json, digest_bytes, staging, sweep, write_file
from model_store.errors import Permanent
from model_store.signing import Keyring
from model_store.storage import store_folder as folder
from model_store.storage.base import Missing, checked
from model_store.storage.bundles import Bundles
from model_store.storage.contents import Contents
from model_store.storage.folder import FolderStorage
from model_store.storage.opening import URL_VARIABLE, open_storage
from model_store.storage.place import keys_file
from model_store.storage.shared import Kind, Shared, StoredItem


def references(value: Any) -> Iterable[tuple[str, str]]:
    """Every stored thing a memo's value names: artifact records, `{"blob": digest}` and `{"bundle": id}`."""
    if isinstance(value, dict):
        if "digest" in value and "toolchain" in value:
            yield "digest", value["digest"]
        yield from ((kind, value[kind]) for kind in ("blob", "bundle") if isinstance(value.get(kind), str))
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


Json = dict[str, Any]

# How much of a bucket the folder keeps. What was used within the last hours is not counted: stages read it.
CACHE_BYTES = 20_000_000_000
IN_USE_SECONDS = 6 * 3600.0
# What a killed download left is gone on with until then.
PARTIAL_SECONDS = 24 * 3600.0


def open_store(folder: Path, environ: Mapping[str, str] = os.environ, *, makes_keys: bool = True) -> Store:
    """The store that `SLIPWAY_STORAGE_URL` names; `folder` is it if that is not set, else it is its cache.

    Raises `Permanent` for a URL that is none.
    """
    keys = keys_file(folder, environ)
    said = environ.get(TRUSTED_VARIABLE)
    trusted = Trusted.parse(said) if said else None
    if not (url := environ.get(URL_VARIABLE)):
        return Store(folder, keys=keys, makes_keys=makes_keys, trusted=trusted)
    storage = open_storage(url, environ)
    if isinstance(storage, FolderStorage):
        # Engines can read there.
        return Store(storage.root, keys=keys, makes_keys=makes_keys, trusted=trusted)
    return Store(folder, shared=Shared(storage), keys=keys, makes_keys=makes_keys, trusted=trusted)


def _sealed_content(name: str, memo: Mapping[str, Any]) -> bytes:
    """With its name: a memo that is put in another's place is none."""
    return b"slipway memo 1\n" + canonical_json([name, dict(memo)])


class Store(Contents, Bundles):
    """Content-addressed storage. Safe for many processes at once, and with `shared` for many machines."""

    def memo(
        self,
        stage: str,
        inputs: Mapping[str, Any],
        compute: Callable[[], Json],
        *,
        keep: Callable[[Json], bool] = lambda value: True,
    ) -> Json:
        """What `stage` makes of `inputs`: remembered, or computed now and remembered if `keep` says so.

        A memo whose artifacts or bundle are gone, or that cannot be read, counts as never written. So does
        one that no key of this installation sealed: what a stage made is signed into a bundle, and whoever
        writes to the store would decide it. Where nothing can seal, nothing is remembered.
        """
        name = f"{stage}/{digest_bytes(canonical_json(inputs)).removeprefix('sha256:')}.json"
        if (known := self._recall(name)) is not None:
            return known
        # As a later reader will get it: lists where the stage had tuples.
        value: Json = json.loads(canonical_json(compute()))
        if keep(value):
            self._keep_memo(name, {"inputs": dict(inputs), "value": value})
        return value

    def _keep_memo(self, name: str, memo: Json) -> None:
        if (keys := self._keys()) is not None and keys.seeds:
            seal = keys.seal(_sealed_content(name, memo))
            self._write_memo(name, canonical_json({**memo, "seal": seal}))

    def _keys(self) -> Keyring | None:
        try:
            return self.keyring()
        except Permanent:
            return None

    def _write_memo(self, name: str, content: bytes) -> None:
        if self.shared:
            self.shared.put_memo(name, content)
        else:
            write_file(self.root / "memo" / name, content, area=self._tmp)

    def _read_memo(self, name: str) -> bytes:
        if self.shared:
            return self.shared.get_memo(name) or b""
        path = self.root / "memo" / name
        return path.read_bytes() if path.is_file() else b""

    def _recall(self, name: str) -> Json | None:
        try:
            memo: Json = json.loads(self._read_memo(name))
            value: Json = memo["value"]
            seal = str(memo.pop("seal"))
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None
        keys = self._keys()
        if keys is None or not keys.trust.sealed(_sealed_content(name, memo), seal):
            return None
        if all(self._is_here(kind, name) for kind, name in references(value)):
            return value
        return None

    def _is_here(self, kind: str, name: str) -> bool:
        match kind:
            case "digest":
                return self.has(name)
            case "blob":
                path = self._blob_path(name)
                return self.shared.has_blob(path.name) if self.shared else path.is_file()
            case _:
                return self.has_bundle(name)

    # upkeep

    def scratch(self) -> AbstractContextManager[Path]:
        """A fresh folder for what one step writes on its way, removed on exit. What a killed step left in one
        is removed by the next build (`sweep`), which a folder in TMPDIR would not be.
        """
        return staging(self._tmp)

    def sweep(self) -> list[str]:
        """Remove what killed writers left behind, and of a bucket's cache what is too much; returns the names
        of the former.
        """
        folder.forget_partial(self.root, unused_since=time.time() - PARTIAL_SECONDS)
        if self.shared:
            folder.shrink(self.root, CACHE_BYTES, unused_since=time.time() - IN_USE_SECONDS)
        return sweep(self._tmp)

    def kept(self, kind: Kind) -> Iterator[StoredItem]:
        """Everything of one kind."""
        return self.shared.kept(kind) if self.shared else folder.kept(self.root, kind)

    def has_result(self, digest: str) -> bool:
        """Whether a stage's result is kept, and everything that it names."""
        if not self._is_here("blob", digest):
            return False
        return all(self._is_here(kind, name) for kind, name in references(json.loads(self.get_bytes(digest))))

    def remembers(self, memo: str) -> bool:
        """Whether a memo (its name in `kept`) can be read and everything it names is still kept."""
        return self._recall(memo) is not None

    def remove(self, kind: Kind, name: str, oldest: float = math.inf) -> bool:
        """Remove one thing, whole for whoever reads it now.

        False: it was used since `oldest` (seconds since 1970) and is where it was.
        """
        if self.shared:
            # A memo is never touched, and is no folder that could be looked into.
            if kind != "memo" and any(one.used_at >= oldest for one in self.shared.kept(kind, name)):
                return False
            self.shared.remove(kind, name)
        return folder.remove(self.root, kind, name, math.inf if self.shared else oldest)


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

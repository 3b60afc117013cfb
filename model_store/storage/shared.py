"""What several machines share of a store: its artifacts, blobs, memos and bundles, as objects.

    artifacts/<sha256>/model.onnx | model.tar, meta.json       the meta is written last
    blobs/<sha256>/bytes
    memo/<stage>/<digest of the inputs>.json
    bundles/<id>/files/<sha256>, manifest.json                  the manifest is written last

A thing is there when what is written last is there: a writer that is killed leaves nothing that is found.
A bundle's files have their digests for names, so that two writers of one bundle never mix theirs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model_store.attestation import MANIFEST
from model_store.storage.base import Missing, ObjectStorage, StoredObject
from model_store.storage.fetch import BundleSource
from model_store.storage.transfer import download, get_verified

# `data` are copies in a folder alone.
Kind = Literal["artifacts", "blobs", "bundles", "memo", "data"]
META = "meta.json"


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One thing in a store. `used_at`: made or used last, in seconds since 1970."""

    kind: Kind
    name: str
    size_bytes: int
    used_at: float


class Shared:
    """A store's things in a storage. Digests are given as hex."""

    def __init__(self, storage: ObjectStorage) -> None:
        self.storage = storage

    # artifacts

    def has_artifact(self, digest: str) -> bool:
        """Whether all of it is there."""
        return self.storage.head(f"artifacts/{digest}/{META}") is not None

    def put_artifact(self, digest: str, folder: Path) -> None:
        """Keep the artifact in `folder`, unless it is kept already: then it counts as used now."""
        if self.has_artifact(digest):
            self.storage.touch(f"artifacts/{digest}/{META}")
            return
        for path in sorted(folder.iterdir(), key=lambda path: path.name == META):
            self.storage.put_file(f"artifacts/{digest}/{path.name}", path)

    def meta(self, digest: str) -> bytes:
        """The artifact's meta.json. Raises `Missing`."""
        return self.storage.get(f"artifacts/{digest}/{META}")

    def fetch_artifact(self, digest: str, name: str, folder: Path) -> None:
        """Complete `folder` to the artifact, verified. Raises `Missing`, `Corrupt`."""
        meta = self.meta(digest)
        self.storage.touch(f"artifacts/{digest}/{META}")
        download(self.storage, f"artifacts/{digest}/{name}", f"sha256:{digest}", folder / name)
        (folder / META).write_bytes(meta)

    # blobs and memos

    def has_blob(self, digest: str) -> bool:
        return self.storage.head(f"blobs/{digest}/bytes") is not None

    def put_blob(self, digest: str, content: bytes) -> None:
        if self.has_blob(digest):
            self.storage.touch(f"blobs/{digest}/bytes")
        else:
            self.storage.put(f"blobs/{digest}/bytes", content)

    def put_blob_file(self, digest: str, path: Path) -> None:
        """As `put_blob`, of a file that need not fit into memory."""
        if self.has_blob(digest):
            self.storage.touch(f"blobs/{digest}/bytes")
        else:
            self.storage.put_file(f"blobs/{digest}/bytes", path)

    def fetch_blob(self, digest: str, path: Path) -> None:
        """The bytes at `path`, verified. Raises `Missing`, `Corrupt`."""
        self.storage.touch(f"blobs/{digest}/bytes")
        download(self.storage, f"blobs/{digest}/bytes", f"sha256:{digest}", path)

    def get_blob(self, digest: str) -> bytes:
        """Raises `Missing`, `Corrupt`."""
        content = get_verified(self.storage, f"blobs/{digest}/bytes", f"sha256:{digest}")
        self.storage.touch(f"blobs/{digest}/bytes")
        return content

    def put_memo(self, name: str, content: bytes) -> None:
        self.storage.put(f"memo/{name}", content)

    def get_memo(self, name: str) -> bytes | None:
        """None where there is none."""
        try:
            return self.storage.get(f"memo/{name}")
        except Missing:
            return None

    # bundles

    def bundle(self, bundle_id: str) -> BundleSource:
        """As `model_store.storage.fetch` reads it, for pods too."""
        return BundleSource(self.storage, f"bundles/{bundle_id}")

    def has_bundle(self, bundle_id: str) -> bool:
        return self.storage.head(f"bundles/{bundle_id}/{MANIFEST}") is not None

    def put_bundle(self, bundle_id: str, folder: Path, *, replacing: bool) -> bool:
        """Keep the bundle in `folder`. False: unless `replacing`, when somebody else was first."""
        source, manifest = self.bundle(bundle_id), (folder / MANIFEST).read_bytes()
        for path, digest in json.loads(manifest)["files"].items():
            key = source.file_key(path, digest)
            if self.storage.head(key) is None or replacing:
                self.storage.put_file(key, folder / path)
        key = f"{source.prefix}/{MANIFEST}"
        if not replacing:
            return self.storage.create(key, manifest)
        self.storage.put(key, manifest)
        return True

    def touch_bundle(self, bundle_id: str) -> None:
        """Count it as used now."""
        self.storage.touch(f"bundles/{bundle_id}/{MANIFEST}")

    # upkeep

    def kept(self, kind: Kind, name: str = "") -> Iterator[StoredItem]:
        """Everything of a kind (or what has one name), and what killed writers left of it."""
        found: dict[str, list[StoredObject]] = {}
        for one in self.storage.list(f"{kind}/{name}" if name else kind):
            parts = one.key.split("/")[1:]
            found.setdefault("/".join(parts) if kind == "memo" else parts[0], []).append(one)
        for each, objects in found.items():
            size, used_at = sum(one.size_bytes for one in objects), max(one.used_at for one in objects)
            yield StoredItem(kind, each, size, used_at)

    def remove(self, kind: Kind, name: str) -> None:
        """What was written last goes first: from then on nobody finds it."""
        prefix = f"{kind}/{name}"
        last = {"artifacts": f"{prefix}/{META}", "bundles": f"{prefix}/{MANIFEST}"}.get(kind, prefix)
        self.storage.delete(last)
        for one in list(self.storage.list(prefix)):
            self.storage.delete(one.key)

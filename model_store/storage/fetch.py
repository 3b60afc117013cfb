"""A bundle for whoever has its URL: verified, whole or not at all, once for all pods of a machine.

    python -m model_store.storage fetch s3://models/bundles/9fa70a0cddd2a399a4e89563 --into /bundle/model
        [--digest sha256:...]    the digest of its manifest.json, as whoever verified its signature says it
        [--cache /var/cache/slipway --cache-gb 20]

In a bucket, `bundles/<id>/manifest.json` says which files there are, and `bundles/<id>/files/<sha256>` are
their bytes. In a folder (`file://`) a bundle lies as pods read it. Nothing is imported but obstore and this
package.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_store.attestation import MANIFEST, strange_files
from model_store.durable import digest_bytes, digest_file, discard, let_everybody_read, settle, staging, sweep
from model_store.errors import Permanent
from model_store.storage.base import Corrupt, ObjectStorage, checked
from model_store.storage.opening import open_storage, split
from model_store.storage.transfer import corrupt, download, only_one

Json = dict[str, Any]

SCHEMA = 1
# What is being written or removed now; a store's own folder has the same.
WRITING = "tmp"


@dataclass(frozen=True, slots=True)
class BundleSource:
    """One bundle in a storage. `prefix`: the key that everything of it is below."""

    storage: ObjectStorage
    prefix: str

    @classmethod
    def of(cls, url: str) -> BundleSource:
        """From `URL/bundles/ID`. Raises `Permanent` for what cannot be one."""
        storage, bundle_id = split(url)
        if not bundle_id or set(bundle_id) - set("0123456789abcdef"):
            raise Permanent(f"{url} is no bundle", remedy="write URL/bundles/ID, the id as it was published")
        return cls(open_storage(storage), bundle_id)

    @property
    def bundle_id(self) -> str:
        """The last segment."""
        return self.prefix.rpartition("/")[2]

    def manifest(self, digest: str = "") -> bytes:
        """The manifest's bytes. Raises `Missing`, and `Corrupt` if they are not `digest`, or another's."""
        key = f"{self.prefix}/{MANIFEST}"
        content = self.storage.get(key)
        if digest and (found := digest_bytes(content)) != digest:
            raise corrupt(self.storage, key, digest, found)
        if (found := read_manifest(content, f"{self.storage.url}/{key}")["id"]) != self.bundle_id:
            raise Corrupt(
                f"{self.storage.url}/{self.prefix} holds the bundle {found}",
                remedy="remove it there and release the version again; see who writes there",
            )
        return content

    def file_key(self, path: str, digest: str) -> str:
        """Where the bytes of one of its files are."""
        if self.storage.url.startswith("file://"):
            return f"{self.prefix}/{path}"
        return f"{self.prefix}/files/{digest.removeprefix('sha256:')}"


def read_manifest(content: bytes, where: str) -> Json:
    """The manifest as a value. Raises `Permanent` for what is none, or of another schema."""
    try:
        manifest = json.loads(content)
        schema, files = manifest.get("schema"), manifest.get("files")
    except (ValueError, AttributeError) as error:
        raise Corrupt(f"{where} is not JSON: {error}", remedy="publish the bundle again") from error
    if schema != SCHEMA or not isinstance(files, dict):
        raise Permanent(
            f"{where} has manifest schema {schema}, this version reads {SCHEMA}",
            remedy="publish the bundle again with this version",
        )
    return dict(manifest)


def fill(source: BundleSource, manifest: bytes, folder: Path) -> None:
    """Complete `folder` to the bundle, the manifest last. What is there and good is not fetched again."""
    for path, digest in _files(manifest).items():
        place = folder / path
        if place.exists() and digest_file(place) != digest:
            place.unlink()
        download(source.storage, source.file_key(path, digest), digest, place)
    (folder / MANIFEST).write_bytes(manifest)
    # Locks, and what an attempt at another build of the same id left.
    for strange in faults(folder, manifest):
        (folder / strange).unlink(missing_ok=True)


def faults(folder: Path, manifest: bytes) -> list[str]:
    """What in the folder is not as the manifest says: nothing for a whole bundle."""
    kept = folder / MANIFEST
    is_same = kept.is_file() and kept.read_bytes() == manifest
    return [*([] if is_same else [MANIFEST]), *strange_files(folder, _files(manifest))]


def fetch(url: str, into: Path, *, digest: str = "", cache: Path | None = None, cache_bytes: int = 0) -> str:
    """Bring the bundle at `url` to the folder `into`; returns its id.

    With `cache`, a folder on the machine's own disk, a bundle is fetched once for all who name the same one.
    Raises `Permanent` and `Retryable`; `into` is then as it was.
    """
    source = BundleSource.of(url)
    manifest = source.manifest(digest)
    if into.exists() and not faults(into, manifest):
        return source.bundle_id
    if cache is None:
        with only_one(into.with_name(f".{into.name}.lock")):
            draft = into.with_name(f".{into.name}.{source.bundle_id}")
            fill(source, manifest, draft)
            _name(draft, into)
        return source.bundle_id
    sweep(cache / WRITING)
    with only_one(cache / "locks" / f"{source.bundle_id}.lock"):
        kept = cached(source, manifest, cache)
        _copy(kept, into)
    _shrink(cache, cache_bytes, keep=source.bundle_id)
    return source.bundle_id


def cached(source: BundleSource, manifest: bytes, cache: Path) -> Path:
    """The bundle's folder in `cache`, whole and verified; fetched if it is not. One caller at a time."""
    kept = cache / "bundles" / source.bundle_id
    if kept.exists() and faults(kept, manifest):
        # Somebody wrote into it, or it is an older build of the same id.
        discard(kept, cache / WRITING)
    if not kept.exists():
        draft = cache / "partial" / source.bundle_id
        fill(source, manifest, draft)
        let_everybody_read(draft)
        settle(draft, kept)
    os.utime(kept)
    return kept


def _copy(kept: Path, into: Path) -> None:
    """Links where both are on one file system, which takes no room; else copies."""
    into.parent.mkdir(parents=True, exist_ok=True)
    area = into.parent / f".{into.name}.{WRITING}"
    sweep(area)
    with staging(area) as folder:
        shutil.copytree(kept, folder / "bundle", copy_function=_link_or_copy)
        _name(folder / "bundle", into)
    with suppress(OSError):
        area.rmdir()


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target


def _name(draft: Path, into: Path) -> None:
    if into.is_dir() and any(into.iterdir()):
        raise Permanent(
            f"{into} holds something else than this bundle", remedy="name a folder that is empty or not there"
        )
    try:
        settle(draft, into)
    except OSError as error:
        if into.is_mount():
            raise Permanent(
                f"{into} is a mount point, which nothing can be renamed to",
                remedy=f"name a folder in it: {into}/model",
            ) from error
        raise


def _shrink(cache: Path, limit_bytes: int, *, keep: str) -> None:
    """Remove what was used longest ago until the cache keeps its limit (0: none). Links to it stay good."""
    bundles = sorted(cache.glob("bundles/*"), key=_used_at)
    sizes = {path: _size(path) for path in bundles}
    total = sum(sizes.values())
    for path in bundles:
        if not limit_bytes or total <= limit_bytes:
            return
        if path.name == keep:
            continue
        with only_one(cache / "locks" / f"{path.name}.lock"):
            discard(path, cache / WRITING)
        total -= sizes[path]


def _used_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(path: Path) -> int:
    return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())


def _files(manifest: bytes) -> Mapping[str, str]:
    files: dict[str, str] = json.loads(manifest)["files"]
    for path in files:
        checked(path)
    return files


def urls(storage: ObjectStorage) -> Iterator[str]:
    """The bundles that a storage holds, as `fetch` takes them."""
    for one in storage.list("bundles"):
        if one.key.endswith(f"/{MANIFEST}"):
            yield f"{storage.url}/{one.key.removesuffix(f'/{MANIFEST}')}"

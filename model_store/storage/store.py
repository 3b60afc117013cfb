"""Where builds keep what they made: artifacts by content, memos by inputs, bundles by identity.

    artifacts/<sha256 hex>/model.onnx | model.plan, meta.json
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
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from model_store.bundle.signing import Keyring
from model_store.durable import (
    canonical_json,
    digest_bytes,
    digest_file,
    discard,
    publish_file,
    settle,
    staging,
    supersede,
    sweep,
    write_file,
)
from model_store.errors import Permanent
from model_store.storage.base import Corrupt, Missing
from model_store.storage.fetch import MANIFEST, BundleSource, cached
from model_store.storage.folder import FolderStorage
from model_store.storage.opening import URL_VARIABLE, open_storage
from model_store.storage.shared import META, Kept, Kind, Shared
from model_store.storage.transfer import only_one
from model_store.types import Artifact, Toolchain

Json = dict[str, Any]

RERUN = "run the stage again that made it (clear the release from its first task)"
# The file of the keys that sign bundles, where it is not beside the store.
KEYS_VARIABLE = "SLIPWAY_BUNDLE_KEYS"
# How much of a bucket the folder keeps. What was used within the last hours is not counted: stages read it.
CACHE_BYTES = 20_000_000_000
IN_USE_SECONDS = 6 * 3600.0


def open_store(folder: Path, environ: Mapping[str, str] = os.environ, *, makes_keys: bool = True) -> Store:
    """The store that `SLIPWAY_STORAGE_URL` names; `folder` is it if that is not set, else it is its cache.

    Raises `Permanent` for a URL that is none.
    """
    keys = Path(environ.get(KEYS_VARIABLE) or folder.with_name("bundle_keys.json"))
    if not (url := environ.get(URL_VARIABLE)):
        return Store(folder, keys=keys, makes_keys=makes_keys)
    storage = open_storage(url, environ)
    if isinstance(storage, FolderStorage):
        # Engines can read there.
        return Store(storage.root, keys=keys, makes_keys=makes_keys)
    return Store(folder, shared=Shared(storage), keys=keys, makes_keys=makes_keys)


class Store:
    """Content-addressed storage. Safe for many processes at once, and with `shared` for many machines.

    `root`: a folder on one file system. `keys`: the file of the keys that sign bundles; beside the store, not
    in it, so that writing to the store is not enough. `makes_keys`: whether this is the installation itself.
    """

    def __init__(
        self, root: Path, *, shared: Shared | None = None, keys: Path | None = None, makes_keys: bool = True
    ) -> None:
        self.root = root
        self.keys = keys or root.with_name("bundle_keys.json")
        self._makes_keys = makes_keys
        self.shared = shared
        self._tmp = root / "tmp"

    @property
    def url(self) -> str:
        """Where what counts is kept."""
        return self.shared.storage.url if self.shared else self.root.absolute().as_uri()

    def keyring(self) -> Keyring:
        """The keys, made on first use (`makes_keys`). Raises `Permanent` when their file cannot be read."""
        if not self._makes_keys and not self.keys.is_file():
            # One made here would be trusted nowhere.
            raise Permanent(
                f"there are no keys here to sign bundles and to verify them with: {self.keys} is not there",
                remedy=f"set {KEYS_VARIABLE} to a copy of the installation's bundle_keys.json",
            )
        return Keyring.of(self.keys)

    # artifacts

    def put(
        self,
        content: bytes,
        *,
        format: str,
        precision: str,
        parent_digest: str | None,
        toolchain: Toolchain,
        provenance: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Keep a model file. The same bytes are kept once; `provenance` (JSON) goes into meta.json."""
        digest = digest_bytes(content)
        directory = self._artifact_directory(digest)
        record = {
            "digest": digest,
            "format": format,
            "precision": precision,
            "parent_digest": parent_digest,
            "toolchain": {
                "compiler": toolchain.compiler,
                "version": toolchain.version,
                "gpu_arch": toolchain.gpu_arch,
            },
            "size_bytes": len(content),
        }
        if directory.is_dir() and not _is_sound(directory / _file_name(format), digest):
            discard(directory, self._tmp)
        if not directory.is_dir():
            with staging(self._tmp) as staged:
                (staged / _file_name(format)).write_bytes(content)
                meta = {**record, "provenance": dict(provenance or {})}
                (staged / META).write_bytes(canonical_json(meta))
                settle(staged, directory)
        if self.shared:
            self.shared.put_artifact(directory.name, directory)
        return self.open(record)

    def open(self, record: Mapping[str, Any]) -> Artifact:
        """The artifact a stage recorded (see `artifact_record`), its bytes verified.

        Raises `Permanent`: Missing when it is gone, Corrupt when its bytes changed.
        """
        path = self._artifact_directory(record["digest"]) / _file_name(record["format"])
        if self.shared and not _is_sound(path, record["digest"]):
            self._fetch_artifact(self.shared, path)
        if not path.is_file():
            raise Missing(
                f"artifact {record['digest']} is not in the store at {self.url}",
                remedy=RERUN,
            )
        if (found := digest_file(path)) != record["digest"]:
            raise Corrupt(
                f"{path} should be {record['digest']} but its bytes are {found}",
                remedy=f"remove {path.parent} and run the release again; check the disk",
            )
        os.utime(path.parent)
        return Artifact(path=path, **{**record, "toolchain": Toolchain(**record["toolchain"])})

    def _fetch_artifact(self, shared: Shared, path: Path) -> None:
        """Raises `Permanent` (Missing, Corrupt) and `Retryable`."""
        digest, partial = path.parent.name, self.root / "partial" / path.parent.name
        with only_one(self._lock(digest)):
            if path.exists():
                discard(path.parent, self._tmp)
            shared.fetch_artifact(digest, path.name, partial)
            settle(partial, path.parent)

    def provenance(self, digest: str) -> Json:
        """How the bytes with this digest were first made."""
        path = self._artifact_directory(digest) / META
        known = path.read_bytes() if path.exists() or not self.shared else self.shared.meta(path.parent.name)
        meta: Json = json.loads(known)
        return dict(meta["provenance"])

    def has(self, digest: str) -> bool:
        """Whether an artifact with this digest is kept (its bytes are verified by `open`)."""
        directory = self._artifact_directory(digest)
        return self.shared.has_artifact(directory.name) if self.shared else directory.is_dir()

    # other bytes

    def put_bytes(self, content: bytes) -> str:
        """Keep any bytes under their digest, which is returned."""
        digest = digest_bytes(content)
        path = self._blob_path(digest)
        if not _is_sound(path, digest):
            write_file(path, content, area=self._tmp)
        if self.shared:
            self.shared.put_blob(path.name, content)
        return digest

    def get_bytes(self, digest: str) -> bytes:
        """What `put_bytes` kept. Raises `Permanent` (Missing, Corrupt)."""
        path = self._blob_path(digest)
        if self.shared and not _is_sound(path, digest):
            write_file(path, self.shared.get_blob(path.name), area=self._tmp)
        if not path.is_file():
            raise Missing(f"{digest} is not in the store at {self.url}", remedy=RERUN)
        content = path.read_bytes()
        if (found := digest_bytes(content)) != digest:
            raise Corrupt(
                f"{path} should be {digest} but its bytes are {found}",
                remedy="remove it and run the release again; check the disk",
            )
        os.utime(path)
        return content

    def put_file(self, path: Path) -> str:
        """Keep a file of any size under its digest, which is returned."""
        digest = digest_file(path)
        kept = self._blob_path(digest)
        if self.shared:
            self.shared.put_blob_file(kept.name, path)
        elif not _is_sound(kept, digest):
            with staging(self._tmp) as folder:
                shutil.copyfile(path, folder / "file")
                publish_file(folder / "file", kept)
        return digest

    def file(self, digest: str, name: str) -> Path:
        """A file of this name that holds what `put_file` kept. Raises `Permanent` (Missing, Corrupt)."""
        path = self._blob_path(digest)
        if self.shared and not _is_sound(path, digest):
            path.unlink(missing_ok=True)
            self.shared.fetch_blob(path.name, path)
        if not _is_sound(path, digest):
            self.get_bytes(digest)  # says which of the two it is
        os.utime(path)
        named = self.root / "data" / path.name / Path(name).name
        with staging(self._tmp) as folder:
            os.link(path, folder / "file")
            publish_file(folder / "file", named)
        return named

    # memos

    def memo(
        self,
        stage: str,
        inputs: Mapping[str, Any],
        compute: Callable[[], Json],
        *,
        keep: Callable[[Json], bool] = lambda value: True,
    ) -> Json:
        """What `stage` makes of `inputs`: remembered, or computed now and remembered if `keep` says so.

        A memo whose artifacts or bundle are gone, or that cannot be read, counts as never written.
        """
        name = f"{stage}/{digest_bytes(canonical_json(inputs)).removeprefix('sha256:')}.json"
        if (known := self._recall(name)) is not None:
            return known
        # As a later reader will get it: lists where the stage had tuples.
        value: Json = json.loads(canonical_json(compute()))
        if keep(value):
            self._write_memo(name, canonical_json({"inputs": dict(inputs), "value": value}))
        return value

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
            value: Json = json.loads(self._read_memo(name))["value"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        if all(self._is_here(kind, name) for kind, name in _references(value)):
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

    # bundles

    def bundle_path(self, bundle_id: str) -> Path:
        """Where a bundle is in the folder, or would be; `bundle` brings it there."""
        return self.root / "bundles" / _plain(bundle_id)

    def has_bundle(self, bundle_id: str) -> bool:
        """Whether a bundle is kept. In the folder it counts too: it was verified when it came there."""
        is_here = (self.bundle_path(bundle_id) / MANIFEST).is_file()
        return is_here or (self.shared is not None and self.shared.has_bundle(bundle_id))

    def manifest(self, bundle_id: str, *, here_first: bool = False) -> bytes:
        """A bundle's manifest as it was published; nothing else of it is read. Raises `Missing`.

        `here_first`: one that came here earlier will do, though it may have been signed anew since.
        """
        path = self.bundle_path(bundle_id) / MANIFEST
        with suppress(Missing):
            if self.shared and not (here_first and path.is_file()):
                return self.shared.bundle(bundle_id).manifest()
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise Missing(
                f"there is no bundle {bundle_id} in {self.url}", remedy="publish the bundle again"
            ) from error

    def bundle(self, bundle_id: str) -> Path:
        """The folder of a bundle, fetched if it is not here. Raises `Missing`, `Corrupt`."""
        path, source = self.bundle_path(bundle_id), self._source(bundle_id)
        if source is None:
            return path
        with only_one(self._lock(bundle_id)):
            return cached(source, source.manifest(), self.root)

    def _source(self, bundle_id: str) -> BundleSource | None:
        """None for what the folder alone has: it was made here before there was a bucket."""
        if self.shared is None:
            return None
        is_here = (self.bundle_path(bundle_id) / MANIFEST).is_file()
        return self.shared.bundle(bundle_id) if not is_here or self.shared.has_bundle(bundle_id) else None

    def publish(self, bundle_id: str, write: Callable[[Path], None], *, replacing: bool = False) -> Path:
        """Let `write` fill a directory and give it its name.

        A bundle that is there is not written again, unless `replacing`: then it stays until the new one is
        whole, because it may be the one that serves.
        """
        if self.shared:
            return self._publish_shared(self.shared, bundle_id, write, replacing=replacing)
        final = self.bundle_path(bundle_id)
        if replacing or not final.is_dir():
            with staging(self._tmp) as staged:
                write(staged)
                place = supersede if replacing else settle
                place(staged, final)
        try:
            os.utime(final)
        except FileNotFoundError:
            # It was old, and removed as garbage since we looked.
            return self.publish(bundle_id, write)
        return final

    def _publish_shared(
        self, shared: Shared, bundle_id: str, write: Callable[[Path], None], *, replacing: bool
    ) -> Path:
        """What another published meanwhile is taken instead: an id may have more than one build."""
        if replacing or not shared.has_bundle(bundle_id):
            with staging(self._tmp) as staged:
                write(staged)
                if shared.put_bundle(bundle_id, staged, replacing=replacing):
                    with only_one(self._lock(bundle_id)):
                        supersede(staged, self.bundle_path(bundle_id))
        shared.touch_bundle(bundle_id)
        return self.bundle(bundle_id)

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
        if self.shared:
            self._shrink(CACHE_BYTES, unused_since=time.time() - IN_USE_SECONDS)
        return sweep(self._tmp)

    def _shrink(self, limit_bytes: int, *, unused_since: float) -> None:
        """Bundles stay until retention removes them: pods of this machine may serve from here."""
        here = sorted([*self._here("artifacts"), *self._here("blobs")], key=lambda one: -one.used_at)
        total = 0
        for one in here:
            total += one.size_bytes
            if total > limit_bytes and one.used_at < unused_since:
                self._remove_here(one.kind, one.name)

    def kept(self, kind: Kind) -> Iterator[Kept]:
        """Everything of one kind."""
        return self.shared.kept(kind) if self.shared else self._here(kind)

    def _here(self, kind: Kind) -> Iterator[Kept]:
        pattern = "*/*.json" if kind == "memo" else "*"
        for path in sorted((self.root / kind).glob(pattern)):
            with suppress(FileNotFoundError):
                name = path.relative_to(self.root / kind).as_posix()
                yield Kept(kind, name, _size(path), path.stat().st_mtime)

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
        return self._remove_here(kind, name, math.inf if self.shared else oldest)

    def _remove_here(self, kind: Kind, name: str, oldest: float = math.inf) -> bool:
        path = self.root / kind / name
        if kind in ("artifacts", "bundles"):
            return discard(path, self._tmp, unless=lambda gone: gone.stat().st_mtime >= oldest)
        with suppress(FileNotFoundError):
            if path.stat().st_mtime >= oldest:
                return False
            path.unlink()
        return True

    def _lock(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.lock"

    def _artifact_directory(self, digest: str) -> Path:
        return self.root / "artifacts" / _plain(digest.removeprefix("sha256:"))

    def _blob_path(self, digest: str) -> Path:
        return self.root / "blobs" / _plain(digest.removeprefix("sha256:"))


def _file_name(format: str) -> str:
    return {"onnx": "model.onnx", "mlflow": "model.tar"}.get(format, "model.plan")


def _size(path: Path) -> int:
    """Bytes of a file or of all files in a directory; what vanishes meanwhile counts nothing."""
    try:
        return path.stat().st_size if path.is_file() else sum(_size(inner) for inner in path.iterdir())
    except FileNotFoundError:
        return 0


def _is_sound(path: Path, digest: str) -> bool:
    return path.is_file() and digest_file(path) == digest


def _plain(name: str) -> str:
    """Names come from digests and ids: anything that is not plain hex never becomes a path."""
    if not name or set(name) - set("0123456789abcdef"):
        raise Permanent(f"{name!r} is not a digest or id", remedy="pass the id as the store printed it")
    return name


def _references(value: Any) -> Iterable[tuple[str, str]]:
    """Every stored thing a memo's value names: artifact records, `{"blob": digest}` and `{"bundle": id}`."""
    if isinstance(value, dict):
        if "digest" in value and "toolchain" in value:
            yield "digest", value["digest"]
        yield from ((kind, value[kind]) for kind in ("blob", "bundle") if isinstance(value.get(kind), str))
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)

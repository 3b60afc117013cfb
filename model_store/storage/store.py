"""Where builds keep what they made: artifacts by content, memos by inputs, bundles by identity.

    artifacts/<sha256 hex>/model.onnx | model.plan, meta.json
    blobs/<sha256 hex>       other bytes a later stage needs
    memo/<stage>/<digest of the inputs>.json
    bundles/<id>/            a Triton model repository and its manifest (see `model_store.bundle.publishing`)
    tmp/                     what is being written now

Everything is written aside, flushed and renamed, so that a killed process leaves nothing half made and two
processes that make the same thing both succeed. What is read is verified against its digest.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from model_store.bundle.signing import Keyring
from model_store.durable import (
    canonical_json,
    digest_bytes,
    digest_file,
    discard,
    settle,
    staging,
    supersede,
    sweep,
    write_file,
)
from model_store.errors import Permanent
from model_store.storage.base import Corrupt, Missing
from model_store.types import Artifact, Toolchain

Json = dict[str, Any]

RERUN = "run the stage again that made it (clear the release from its first task)"


class Store:
    """Content-addressed storage in one directory, on one file system. Safe for many processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tmp = root / "tmp"

    @property
    def keys(self) -> Path:
        """The file of the keys that sign bundles: beside the store, so that writing to it is not enough."""
        return self.root.with_name("bundle_keys.json")

    def keyring(self) -> Keyring:
        """The keys, made on first use. Raises `Permanent` when their file cannot be read."""
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
                (staged / "meta.json").write_bytes(canonical_json(meta))
                settle(staged, directory)
        return self.open(record)

    def open(self, record: Mapping[str, Any]) -> Artifact:
        """The artifact a stage recorded (see `artifact_record`), its bytes verified.

        Raises `Permanent`: Missing when it is gone, Corrupt when its bytes changed.
        """
        path = self._artifact_directory(record["digest"]) / _file_name(record["format"])
        if not path.is_file():
            raise Missing(
                f"artifact {record['digest']} is not in the store at {self.root}",
                remedy=RERUN,
            )
        if (found := digest_file(path)) != record["digest"]:
            raise Corrupt(
                f"{path} should be {record['digest']} but its bytes are {found}",
                remedy=f"remove {path.parent} and run the release again; check the disk",
            )
        os.utime(path.parent)
        return Artifact(path=path, **{**record, "toolchain": Toolchain(**record["toolchain"])})

    def provenance(self, digest: str) -> Json:
        """How the bytes with this digest were first made."""
        meta: Json = json.loads((self._artifact_directory(digest) / "meta.json").read_bytes())
        return dict(meta["provenance"])

    def has(self, digest: str) -> bool:
        """Whether an artifact with this digest is here (its bytes are verified by `open`)."""
        return self._artifact_directory(digest).is_dir()

    # other bytes

    def put_bytes(self, content: bytes) -> str:
        """Keep any bytes under their digest, which is returned."""
        digest = digest_bytes(content)
        path = self._blob_path(digest)
        if not _is_sound(path, digest):
            write_file(path, content, area=self._tmp)
        return digest

    def get_bytes(self, digest: str) -> bytes:
        """What `put_bytes` kept. Raises `Permanent` (Missing, Corrupt)."""
        path = self._blob_path(digest)
        if not path.is_file():
            raise Missing(f"{digest} is not in the store at {self.root}", remedy=RERUN)
        content = path.read_bytes()
        if (found := digest_bytes(content)) != digest:
            raise Corrupt(
                f"{path} should be {digest} but its bytes are {found}",
                remedy="remove it and run the release again; check the disk",
            )
        os.utime(path)
        return content

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
        path = (
            self.root
            / "memo"
            / stage
            / f"{digest_bytes(canonical_json(inputs)).removeprefix('sha256:')}.json"
        )
        if (known := self._recall(path)) is not None:
            return known
        # As a later reader will get it: lists where the stage had tuples.
        value: Json = json.loads(canonical_json(compute()))
        if keep(value):
            write_file(path, canonical_json({"inputs": dict(inputs), "value": value}), area=self._tmp)
        return value

    def _recall(self, path: Path) -> Json | None:
        try:
            value: Json = json.loads(path.read_bytes())["value"]
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
                return self._blob_path(name).is_file()
            case _:
                return self.bundle_path(name).is_dir()

    # bundles

    def bundle_path(self, bundle_id: str) -> Path:
        """Where a bundle is, or would be."""
        return self.root / "bundles" / _plain(bundle_id)

    def publish(self, bundle_id: str, write: Callable[[Path], None], *, replacing: bool = False) -> Path:
        """Let `write` fill a directory and give it its name.

        A bundle that is there is not written again, unless `replacing`: then it stays until the new one is
        whole, because it may be the one that serves.
        """
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

    # upkeep

    def scratch(self) -> AbstractContextManager[Path]:
        """A fresh folder for what one step writes on its way, removed on exit. What a killed step left in one
        is removed by the next build (`sweep`), which a folder in TMPDIR would not be.
        """
        return staging(self._tmp)

    def sweep(self) -> list[str]:
        """Remove what killed writers left behind; returns the removed names."""
        return sweep(self._tmp)

    def remembers(self, memo: Path) -> bool:
        """Whether a memo file can be read and everything it names is still here."""
        return self._recall(memo) is not None

    def remove(self, path: Path, oldest: float = math.inf) -> bool:
        """Remove an artifact or bundle directory, whole for whoever reads it now.

        False: it was used since `oldest` (seconds since 1970) and is where it was.
        """
        return discard(path, self._tmp, unless=lambda gone: gone.stat().st_mtime >= oldest)

    def _artifact_directory(self, digest: str) -> Path:
        return self.root / "artifacts" / _plain(digest.removeprefix("sha256:"))

    def _blob_path(self, digest: str) -> Path:
        return self.root / "blobs" / _plain(digest.removeprefix("sha256:"))


def _file_name(format: str) -> str:
    return {"onnx": "model.onnx", "mlflow": "model.tar"}.get(format, "model.plan")


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

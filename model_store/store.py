"""Where builds keep what they made: artifacts by content, memos by inputs, bundles by identity.

    artifacts/<sha256 hex>/model.onnx | model.plan, meta.json
    memo/<stage>/<digest of the inputs>.json
    bundles/<id>/            a Triton model repository and its manifest (see `model_store.bundle`)
    tmp/                     what is being written now

Everything is written aside, flushed and renamed, so that a killed process leaves nothing half made and two
processes that make the same thing both succeed. What is read is verified against its digest.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from model_store.durable import (
    canonical_json,
    digest_bytes,
    digest_file,
    discard,
    settle,
    staging,
    sweep,
    write_file,
)
from model_store.errors import Permanent
from model_store.types import Artifact, Toolchain

Json = dict[str, Any]


class Corrupt(Permanent):
    """Stored bytes are not what their digest says."""


class Missing(Permanent):
    """The store has nothing under this name."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What garbage collection removed."""

    bundles: tuple[str, ...]
    artifacts: tuple[str, ...]
    memos: int


def artifact_record(artifact: Artifact) -> Json:
    """The artifact as JSON, without the path (which only this machine knows)."""
    return {
        "digest": artifact.digest,
        "format": artifact.format,
        "precision": artifact.precision,
        "parent_digest": artifact.parent_digest,
        "toolchain": {
            "compiler": artifact.toolchain.compiler,
            "version": artifact.toolchain.version,
            "gpu_arch": artifact.toolchain.gpu_arch,
        },
        "size_bytes": artifact.size_bytes,
    }


class Store:
    """Content-addressed storage in one directory, on one file system. Safe for many processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tmp = root / "tmp"

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
                remedy="run the stage again that made it (clear the release from its first task)",
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

    # memos

    def memo(self, stage: str, inputs: Mapping[str, Any], compute: Callable[[], Json]) -> Json:
        """What `stage` makes of `inputs`: remembered, or computed now and remembered.

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
        value = compute()
        write_file(path, canonical_json({"inputs": dict(inputs), "value": value}))
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
        return self.has(name) if kind == "digest" else self.bundle_path(name).is_dir()

    # bundles

    def bundle_path(self, bundle_id: str) -> Path:
        """Where a bundle is, or would be."""
        return self.root / "bundles" / _plain(bundle_id)

    def publish(self, bundle_id: str, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a directory and give it its name. A bundle that is there is not written again."""
        final = self.bundle_path(bundle_id)
        if not final.is_dir():
            with staging(self._tmp) as staged:
                write(staged)
                settle(staged, final)
        os.utime(final)
        return final

    # upkeep

    def sweep(self) -> list[str]:
        """Remove what killed writers left behind; returns the removed names."""
        return sweep(self._tmp)

    def collect_garbage(self, *, keep: Iterable[str], now: datetime, grace: timedelta) -> Collected:
        """Remove bundles not named in `keep`, then artifacts and memos nothing kept refers to.

        What was made or used less than `grace` before `now` stays: a build in flight needs it.
        """
        kept, oldest = set(keep), (now - grace).timestamp()
        self.sweep()
        bundles = [path for path in self._bundles() if path.name not in kept and _is_older(path, oldest)]
        for path in bundles:
            discard(path, self._tmp)
        needed = {digest for path in self._bundles() for digest in _artifacts_of(path)}
        artifacts = [
            path for path in self._artifacts() if path.name not in needed and _is_older(path, oldest)
        ]
        for path in artifacts:
            discard(path, self._tmp)
        memos = self._forget(oldest)
        return Collected(tuple(p.name for p in bundles), tuple(p.name for p in artifacts), memos)

    def _forget(self, oldest: float) -> int:
        stale = [path for path in self.root.glob("memo/*/*.json") if _is_older(path, oldest)]
        gone = [path for path in stale if self._recall(path) is None]
        for path in gone:
            path.unlink(missing_ok=True)
        return len(gone)

    def _bundles(self) -> list[Path]:
        return sorted(path for path in (self.root / "bundles").glob("*") if path.is_dir())

    def _artifacts(self) -> list[Path]:
        return sorted(path for path in (self.root / "artifacts").glob("*") if path.is_dir())

    def _artifact_directory(self, digest: str) -> Path:
        return self.root / "artifacts" / _plain(digest.removeprefix("sha256:"))

    def disk_free_bytes(self) -> int:
        """Free bytes on the store's file system."""
        return shutil.disk_usage(self.root).free


def _file_name(format: str) -> str:
    return "model.onnx" if format == "onnx" else "model.plan"


def _is_sound(path: Path, digest: str) -> bool:
    return path.is_file() and digest_file(path) == digest


def _plain(name: str) -> str:
    """Names come from digests and ids: anything that is not plain hex never becomes a path."""
    if not name or set(name) - set("0123456789abcdef"):
        raise Permanent(f"{name!r} is not a digest or id", remedy="pass the id as the store printed it")
    return name


def _references(value: Any) -> Iterable[tuple[str, str]]:
    """Every stored thing a memo's value names: `{"digest": ...}` of artifacts and `{"bundle": id}`."""
    if isinstance(value, dict):
        if "digest" in value and "toolchain" in value:
            yield "digest", value["digest"]
        if isinstance(value.get("bundle"), str):
            yield "bundle", value["bundle"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _artifacts_of(bundle: Path) -> Iterable[str]:
    try:
        manifest = json.loads((bundle / "manifest.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return
    for artifact in manifest.get("artifacts", ()):
        yield artifact["digest"].removeprefix("sha256:")


def _is_older(path: Path, timestamp: float) -> bool:
    try:
        return path.stat().st_mtime < timestamp
    except FileNotFoundError:
        return False

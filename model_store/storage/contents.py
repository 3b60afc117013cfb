"""The parts of a store that are found by their digest: artifacts, and other bytes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_store.durable import (
    canonical_json,
    digest_bytes,
    digest_file,
    discard,
    publish_file,
    settle,
    staging,
    write_file,
)
from model_store.storage.base import Corrupt, Missing
from model_store.storage.place import Place, plain
from model_store.storage.shared import META, Shared
from model_store.storage.transfer import only_one
from model_store.types import Artifact, Toolchain

Json = dict[str, Any]

RERUN = "run the stage again that made it (clear the release from its first task)"


class Contents(Place):
    """Every thing is kept once, whoever makes it, and verified whenever it is read."""

    # artifacts

    def put(
        self,
        content: bytes | Path,
        *,
        format: str,
        precision: str,
        parent_digest: str | None,
        toolchain: Toolchain,
        provenance: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Keep a model file, which may be gigabytes: then name it. The same bytes are kept once; `provenance`
        (JSON) goes into meta.json.
        """
        digest = digest_file(content) if isinstance(content, Path) else digest_bytes(content)
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
            "size_bytes": content.stat().st_size if isinstance(content, Path) else len(content),
        }
        if directory.is_dir() and not _is_sound(directory / _file_name(format), digest):
            discard(directory, self._tmp)
        if not directory.is_dir():
            with staging(self._tmp) as staged:
                if isinstance(content, Path):
                    shutil.copyfile(content, staged / _file_name(format))
                else:
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

    def _artifact_directory(self, digest: str) -> Path:
        return self.root / "artifacts" / plain(digest.removeprefix("sha256:"))

    def _blob_path(self, digest: str) -> Path:
        return self.root / "blobs" / plain(digest.removeprefix("sha256:"))


def _file_name(format: str) -> str:
    return "model.tar" if format == "mlflow" else "model.onnx"


def _is_sound(path: Path, digest: str) -> bool:
    return path.is_file() and digest_file(path) == digest

"""Model folders and evidence files in MLflow's artifact store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from model_store.durable import canonical_json, digest_bytes, digest_file
from model_store.errors import Permanent, Retryable
from model_store.registry.rest import Rest

PROXIED = "mlflow-artifacts"
MEGABYTE = 1_000_000
MAX_FILES = 10_000
MAX_DEPTH = 20


class UnsafeArtifact(Permanent):
    """The registry names a file outside the model's folder, or more than the limits allow."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A model's files. `digest` covers every path and content: `sha256:<hex>`."""

    folder: Path
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Entry:
    path: PurePosixPath
    size_bytes: int


def download(rest: Rest, uri: str, folder: Path, *, max_size_mb: float) -> Downloaded:
    """Copy all files at `uri` into `folder`, which then holds nothing else and appears whole or not at all.

    Raises `Permanent` for a folder that is empty, larger than the limit, or has unsafe paths.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if urlsplit(uri).scheme == PROXIED:
        source = _copy(rest, artifact_path(uri), partial, max_size_mb)
    else:
        source = _download_foreign(uri, partial)
    found = describe(source)
    if found.size_bytes > max_size_mb * MEGABYTE:
        raise _too_large(found.size_bytes, max_size_mb)
    shutil.rmtree(folder, ignore_errors=True)
    source.rename(folder)
    shutil.rmtree(partial, ignore_errors=True)
    return Downloaded(folder, found.digest, found.size_bytes)


def describe(folder: Path) -> Downloaded:
    """Digest and size of a folder of files. Raises `Permanent` when there is none."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise Permanent("the version has no files", remedy="log the model again and register the new version")
    digests = {path.relative_to(folder).as_posix(): digest_file(path) for path in files}
    size = sum(path.stat().st_size for path in files)
    return Downloaded(folder, digest_bytes(canonical_json(digests)), size)


def artifact_path(uri: str) -> str:
    """The path inside the server's artifact store, e.g. `1/models/m-5/artifacts`."""
    return urlsplit(uri).path.strip("/")


def upload(rest: Rest, source: Path, artifact: str) -> None:
    """One file, or a folder with everything in it."""
    if source.is_file():
        rest.upload(source, artifact)
        return
    for path in sorted(source.rglob("*")):
        if path.is_file():
            rest.upload(path, f"{artifact}/{path.relative_to(source).as_posix()}")


def _copy(rest: Rest, root: str, target: Path, max_size_mb: float) -> Path:
    entries = list(_entries(rest, root))
    # Before the first byte: the sizes are the store's own.
    total = sum(entry.size_bytes for entry in entries)
    if total > max_size_mb * MEGABYTE:
        raise _too_large(total, max_size_mb)
    for entry in entries:
        path = target / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        rest.download(f"{root}/{entry.path}", path)
    return target


def _entries(rest: Rest, root: str) -> Iterator[_Entry]:
    folders, count = [PurePosixPath()], 0
    while folders:
        folder = folders.pop()
        for listed in rest.list_artifacts(str(PurePosixPath(root) / folder)):
            count += 1
            path = folder / _safe_name(listed["path"])
            if count > MAX_FILES or len(path.parts) > MAX_DEPTH:
                wrong = f"the version has more than {MAX_FILES} files or {MAX_DEPTH} levels of folders"
                raise UnsafeArtifact(wrong, remedy="log the model without its data")
            if listed.get("is_dir"):
                folders.append(path)
            else:
                yield _Entry(path, int(listed.get("file_size") or 0))


def _safe_name(name: str) -> str:
    """A server that was broken into must not write where it likes."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise UnsafeArtifact(f"the registry lists a file named `{name}`", remedy="look at the artifact store")
    return name


def _download_foreign(uri: str, target: Path) -> Path:
    """From stores that clients reach themselves, such as s3. MLflow knows them all, and is slow to import."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        return Path(download_artifacts(artifact_uri=uri, dst_path=str(target)))
    except (MlflowException, OSError) as error:
        raise Retryable(f"{uri} cannot be downloaded: {error}", remedy="check the artifact store") from error


def _too_large(size_bytes: int, max_size_mb: float) -> UnsafeArtifact:
    return UnsafeArtifact(
        f"the model's files are {size_bytes / MEGABYTE:.1f} MB, the limit is {max_size_mb:g} MB",
        remedy="make the model smaller, or raise source.max_size_mb in the spec",
    )

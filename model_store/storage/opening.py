"""A storage for a URL."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from model_store.errors import Permanent
from model_store.storage.base import ObjectStorage
from model_store.storage.folder import FolderStorage

# Where an installation keeps what it builds. Unset: the folder in its home.
URL_VARIABLE = "SLIPWAY_STORAGE_URL"
SCHEMES = ("file", "s3", "gs")


def is_url(written: str) -> bool:
    """Whether this names a storage, and not a path."""
    return "://" in written


def open_storage(url: str, environ: Mapping[str, str] = os.environ) -> ObjectStorage:
    """The storage at `file://`, `s3://` or `gs://`. Asks nobody yet.

    Raises `Permanent` for any other URL, one with credentials in it, and where obstore is not installed.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FolderStorage(_folder(url))
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise Permanent(
            f"{_plain(url)!r} is no storage",
            remedy="write file:///FOLDER, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX",
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise Permanent(
            f"{_plain(url)} has more than a bucket and a prefix",
            remedy="credentials come by the environment (AWS_ACCESS_KEY_ID ...), never in a URL",
        )
    if find_spec("obstore") is None:
        raise Permanent(f"{url} needs obstore, which is not installed", remedy="pip install obstore")
    from model_store.storage.remote import BucketStorage

    return BucketStorage(url, environ)


def try_out(storage: ObjectStorage) -> None:
    """Do everything once that a store does there. Raises `Permanent` and `Retryable`, with its remedy."""
    key = f".tried/{uuid.uuid4().hex}"
    storage.put(key, b"tried")
    try:
        if storage.get(key) != b"tried" or key not in {one.key for one in storage.list(".tried")}:
            raise Permanent(
                f"{storage.url} does not give back at once what it took",
                remedy="use a storage that is consistent: S3 and GCS are, a cache before them may not be",
            )
        if storage.create(key, b"again"):
            raise Permanent(
                f"{storage.url} does not heed conditions (If-None-Match)",
                remedy="use a server with S3's conditional writes: two machines would mix their bundles",
            )
    finally:
        storage.delete(key)


def split(url: str) -> tuple[str, str]:
    """The storage that an object's URL is in, and its key there: all but the last segment, and that."""
    storage, _, key = url.rstrip("/").rpartition("/")
    return storage, unquote(key) if storage.startswith("file://") else key


def _folder(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise Permanent(f"{url} is no folder of this machine", remedy="write file:///ABSOLUTE/FOLDER")
    return Path(unquote(parts.path))


def _plain(url: str) -> str:
    """Without what may be a password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()

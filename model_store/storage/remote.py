"""`s3://` and `gs://`: objects in a bucket, through obstore.

Credentials and addresses are read as the clouds' own libraries read them (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, web identities, instance metadata) and are written nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import GCSStore, S3Store

from model_store.storage.base import CHUNK_BYTES, PART_BYTES, StoredObject, checked, missing
from model_store.storage.failures import explained, says_no_object

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

# An object cannot be touched: an empty one of the same name below here says when it was used last.
USED = ".used"
# Two parts are on their way at a time, so that 450 MB take 32 MB of memory.
PARTS_AT_ONCE = 2

# A request ends when nothing comes for half a minute, not when a large body takes its time.
CLIENT: ClientConfig = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=30),
    "timeout": timedelta(hours=1),
}
RETRIES: RetryConfig = {"max_retries": 6, "retry_timeout": timedelta(seconds=60)}


class BucketStorage:
    """A bucket, or what is below one prefix of it. Constructing it asks nobody."""

    def __init__(
        self,
        url: str,
        environ: Mapping[str, str],
        *,
        retries: RetryConfig = RETRIES,
        client: ClientConfig = CLIENT,
    ) -> None:
        self._url = url.rstrip("/")
        scheme, _, rest = self._url.partition("://")
        bucket, _, self._prefix = rest.partition("/")
        self._store: S3Store | GCSStore
        if scheme == "s3":
            # Only who wrote http:// gets it.
            is_plain = _endpoint(environ).startswith("http://")
            self._store = S3Store(
                bucket, client_options={**client, "allow_http": is_plain}, retry_config=retries
            )
        else:
            self._store = GCSStore(
                bucket, client_options={**client, "allow_http": True}, retry_config=retries
            )

    @property
    def url(self) -> str:
        """See `ObjectStorage`, as all of these."""
        return self._url

    def get(self, key: str) -> bytes:
        return b"".join(self.stream(key))

    def stream(self, key: str, start: int = 0) -> Iterator[bytes]:
        place = self._place(key)
        try:
            # A range from 0 on would be refused of an empty object.
            options = {"range": {"offset": start}} if start else None
            yield from obstore.get(self._store, place, options=options).stream(CHUNK_BYTES)  # type: ignore[arg-type]
        except Exception as error:
            if says_no_object(error):
                raise missing(self._url, key) from error
            raise explained(error, self._url, f"reading {key}") from error

    def head(self, key: str) -> StoredObject | None:
        place = self._place(key)
        try:
            return self._seen(obstore.head(self._store, place))
        except Exception as error:
            if says_no_object(error):
                return None
            raise explained(error, self._url, f"looking for {key}") from error

    def list(self, prefix: str) -> Iterator[StoredObject]:
        used = {one.key.removeprefix(f"{USED}/"): one.used_at for one in self._listed(_below(USED, prefix))}
        for one in self._listed(prefix):
            if not one.key.startswith(f"{USED}/"):
                yield StoredObject(one.key, one.size_bytes, max(one.used_at, used.get(one.key, 0.0)))

    def put(self, key: str, content: bytes) -> None:
        self._put(key, content)

    def create(self, key: str, content: bytes) -> bool:
        try:
            obstore.put(self._store, self._place(key), content, mode="create")
        except (AlreadyExistsError, PreconditionError):
            return False
        except Exception as error:
            raise explained(error, self._url, f"writing {key}") from error
        return True

    def put_file(self, key: str, source: Path) -> None:
        self._put(key, source)

    def touch(self, key: str) -> None:
        if self.head(key) is not None:
            self._put(f"{USED}/{key}", b"")

    def delete(self, key: str) -> None:
        try:
            for place in (self._place(key), self._place(f"{USED}/{key}")):
                obstore.delete(self._store, place)
        except Exception as error:
            if not says_no_object(error):
                raise explained(error, self._url, f"removing {key}") from error

    def _put(self, key: str, content: bytes | Path) -> None:
        place = self._place(key)
        try:
            obstore.put(self._store, place, content, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)
        except Exception as error:
            raise explained(error, self._url, f"writing {key}") from error

    def _listed(self, prefix: str) -> Iterator[StoredObject]:
        try:
            pages = obstore.list(self._store, _below(self._prefix, prefix) or None, chunk_size=1000)
            for page in pages:
                yield from (self._seen(one) for one in page)
        except Exception as error:
            raise explained(error, self._url, f"listing {prefix or 'everything'}") from error

    def _place(self, key: str) -> str:
        return _below(self._prefix, checked(key))

    def _seen(self, known: ObjectMeta) -> StoredObject:
        key = known["path"].removeprefix(f"{self._prefix}/") if self._prefix else known["path"]
        return StoredObject(key, known["size"], known["last_modified"].timestamp())


def _endpoint(environ: Mapping[str, str]) -> str:
    return (
        environ.get("AWS_ENDPOINT_URL_S3")
        or environ.get("AWS_ENDPOINT_URL")
        or environ.get("AWS_ENDPOINT")
        or ""
    )


def _below(prefix: str, key: str) -> str:
    return "/".join(part for part in (prefix, key) if part)

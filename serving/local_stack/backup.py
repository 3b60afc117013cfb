"""Files and objects of docker-compose.yaml's stack, as a tar each: what its service `backup` does.

    save · load                    what volumes hold, all below /backup
    save-objects · load-objects    the object store's buckets, while it runs

`save` writes to standard output, `load` reads from standard input. Databases are PostgreSQL's own to save.
deploy/backup does all of it, in an order in which nothing is missed: whatever a database names was stored
before it was named.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from model_store.errors import Permanent, SlipwayError
from model_store.storage.base import ObjectStorage
from model_store.storage.opening import open_storage
from serving.local_stack.containers import BUCKETS, make_buckets, own_environment

FOLDER = Path("/backup")
# By bucket.
Stores = Mapping[str, ObjectStorage]
AIRFLOWS_SECRETS = FOLDER / "secrets" / "airflow"


def save(folder: Path, to: IO[bytes]) -> None:
    """With owners and rights, so that they are the same in the volumes of another machine."""
    with tarfile.open(fileobj=to, mode="w|") as tar:
        tar.add(folder, arcname=".", filter=_no_socket)


def load(folder: Path, source: IO[bytes]) -> None:
    """Raises `Permanent` where something is there: two installations do not mix."""
    there = [str(path) for volume in folder.iterdir() if volume.is_dir() for path in _files(volume)]
    if there:
        raise Permanent(
            f"the volumes are not empty: {', '.join(there[:3])} ...",
            remedy="load it into another project, or let go of this one first: docker compose down --volumes",
        )
    with tarfile.open(fileobj=source, mode="r|") as tar:
        # Of whoever made the backup, that is of ourselves: owners count, and root sets them.
        tar.extractall(folder, filter=_as_it_was)


def save_objects(stores: Stores, to: IO[bytes]) -> None:
    """Each read whole into memory, one at a time: bundles are a few megabytes."""
    with tarfile.open(fileobj=to, mode="w|") as tar:
        for bucket, store in stores.items():
            for found in store.list(""):
                body = store.get(found.key)
                named = tarfile.TarInfo(f"{bucket}/{found.key}")
                named.size = len(body)
                tar.addfile(named, io.BytesIO(body))


def load_objects(stores: Stores, source: IO[bytes]) -> None:
    with tarfile.open(fileobj=source, mode="r|") as tar:
        for named in tar:
            bucket, _, key = named.name.partition("/")
            body = tar.extractfile(named)
            if bucket not in stores or body is None:
                raise Permanent(f"{named.name!r} is no object of ours", remedy="give what save-objects wrote")
            stores[bucket].put(key, body.read())


def _files(volume: Path) -> list[Path]:
    return [path for path in volume.rglob("*") if path.is_file()]


def _no_socket(named: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return named if named.isreg() or named.isdir() or named.issym() else None


def _as_it_was(named: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
    safe = tarfile.tar_filter(named, path)
    return safe.replace(uid=named.uid, gid=named.gid, mode=named.mode, deep=False)


def _stores() -> Stores:
    os.environ.update(own_environment(AIRFLOWS_SECRETS))
    return {bucket: open_storage(f"s3://{bucket}") for bucket in BUCKETS}


def _load_objects(source: IO[bytes]) -> None:
    stores = _stores()
    make_buckets()
    load_objects(stores, source)


def main(arguments: list[str]) -> None:
    given, out = sys.stdin.buffer, sys.stdout.buffer
    acts: dict[str, Callable[[], None]] = {
        "save": lambda: save(FOLDER, out),
        "load": lambda: load(FOLDER, given),
        "save-objects": lambda: save_objects(_stores(), out),
        "load-objects": lambda: _load_objects(given),
    }
    if len(arguments) != 1 or arguments[0] not in acts:
        raise Permanent(f"cannot do {arguments}", remedy=f"one of {', '.join(acts)}")
    acts[arguments[0]]()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SlipwayError as problem:
        sys.exit(f"error: {problem}")

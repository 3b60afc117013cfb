"""`file://`: objects as files of one folder, on one file system where rename is atomic."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG

from model_store.durable import publish_file, staging
from model_store.storage.base import CHUNK_BYTES, StoredObject, checked, missing
from model_store.unwritable import naming

# What is being written now. No key is below it.
WRITING = ".writing"


class FolderStorage:
    """A folder as a storage. It is made with the first object."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def url(self) -> str:
        """See `ObjectStorage`, as all of these."""
        return self.root.absolute().as_uri()

    def get(self, key: str) -> bytes:
        return b"".join(self.stream(key))

    def stream(self, key: str, start: int = 0) -> Iterator[bytes]:
        try:
            file = self._path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise missing(self.url, key) from error
        with file:
            file.seek(start)
            while piece := file.read(CHUNK_BYTES):
                yield piece

    def head(self, key: str) -> StoredObject | None:
        return self._seen(self._path(key), key)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        top = self._path(prefix) if prefix else self.root
        for folder, names, files in os.walk(top):
            names[:] = [name for name in names if name != WRITING]
            for name in files:
                path = Path(folder, name)
                if (found := self._seen(path, path.relative_to(self.root).as_posix())) is not None:
                    yield found

    def put(self, key: str, content: bytes) -> None:
        with self._written(key) as draft:
            draft.write_bytes(content)
            self._publish(draft, key)

    def create(self, key: str, content: bytes) -> bool:
        with self._written(key) as draft:
            draft.write_bytes(content)
            return self._publish(draft, key, replacing=False)

    def put_file(self, key: str, source: Path) -> None:
        with self._written(key) as draft:
            shutil.copyfile(source, draft)
            self._publish(draft, key)

    def touch(self, key: str) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.utime(self._path(key))

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            self._path(key).unlink()

    def _path(self, key: str) -> Path:
        return self.root / checked(key)

    def _publish(self, draft: Path, key: str, *, replacing: bool = True) -> bool:
        """Who may read the folder may read what is in it, whatever our umask is: other machines' pods run as
        other users.
        """
        readers = self.root.stat().st_mode & 0o777
        path = self._path(key)
        for folder in reversed(path.relative_to(self.root).parents[:-1]):
            place = self.root / folder
            if not place.is_dir():
                with suppress(FileExistsError):
                    place.mkdir()
                    place.chmod(readers)
        draft.chmod(readers & 0o666)
        return publish_file(draft, path, replacing=replacing)

    @contextmanager
    def _written(self, key: str) -> Iterator[Path]:
        if not self.root.is_dir():
            self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.root.chmod(0o755)
        with naming(self._path(key)), staging(self.root / WRITING) as folder:
            yield folder / "object"

    @staticmethod
    def _seen(path: Path, key: str) -> StoredObject | None:
        try:
            known = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return StoredObject(key, known.st_size, known.st_mtime) if S_ISREG(known.st_mode) else None

"""Folders of JSON files, parsed once: files are replaced by renaming, which changes their folder's time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

# A folder's time stamp may be coarser than two renames are apart; one this young is looked at again.
_SETTLED_NS = 50_000_000

_Stamp = tuple[int, int, int]


class Folder(Generic[T]):
    """The files of one folder whose names end with `suffix`, each as what `parse` made of its bytes.

    `parse` may raise ValueError, KeyError or TypeError for a file that is not what it should be: it is left
    out, as if it were not there.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[bytes], T],
        *,
        suffix: str = ".json",
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._path = str(path)
        self._parse = parse
        self._suffix = suffix
        self._clock_ns = clock_ns
        self._seen_ns = -1
        self._files: dict[str, tuple[_Stamp, T | None]] = {}

    @property
    def files(self) -> Mapping[str, T]:
        """By name without the suffix, as of the last `refresh`."""
        whole = ((name, parsed) for name, (_, parsed) in self._files.items())
        return {name.removesuffix(self._suffix): parsed for name, parsed in whole if parsed is not None}

    def refresh(self) -> bool:
        """Look again. Whether anything may have changed."""
        try:
            changed_ns = os.stat(self._path).st_mtime_ns  # noqa: PTH116 - called hundreds of times a request
        except (FileNotFoundError, NotADirectoryError):
            had, self._files, self._seen_ns = bool(self._files), {}, -1
            return had
        if changed_ns == self._seen_ns:
            return False
        is_settled = abs(self._clock_ns() - changed_ns) > _SETTLED_NS
        self._files = self._scanned()
        self._seen_ns = changed_ns if is_settled else -1
        return True

    def _scanned(self) -> dict[str, tuple[_Stamp, T | None]]:
        found = {}
        with os.scandir(self._path) as entries:
            for entry in entries:
                if entry.name.endswith(self._suffix) and (read := self._file(entry)):
                    found[entry.name] = read
        return found

    def _file(self, entry: os.DirEntry[str]) -> tuple[_Stamp, T | None] | None:
        try:
            stat = entry.stat()
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            known = self._files.get(entry.name)
            if known and known[0] == stamp:
                return known
            with open(entry.path, "rb") as file:  # noqa: PTH123 - ten thousand times at the start
                return stamp, self._parsed(file.read())
        except FileNotFoundError:
            return None

    def _parsed(self, content: bytes) -> T | None:
        try:
            return self._parse(content)
        except (ValueError, KeyError, TypeError):
            return None

"""A disk that takes no new file while a test says so; what is on it can still be read and renamed."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from model_store import durable


class Disk:
    """`full` may be set at any time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self._staging = durable.staging
        monkeypatch.setattr(durable, "staging", self._or_full)

    @contextmanager
    def _or_full(self, area: Path) -> Iterator[Path]:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device", str(area))
        with self._staging(area) as directory:
            yield directory

"""Which deliveries were taken already, also by another process or before a restart.

One file for each, `<root>/<bucket>/<delivery id>`, created exclusively: of several that get the same delivery
exactly one takes it. It is empty until somebody notes what came of the delivery. The bucket is made of the
signed timestamp, so a repeat always looks in the same one; a delivery whose bucket is swept is older than
anything that is believed.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from serving.inbound.signature import WINDOW, Stamp

_BUCKET_SECONDS = 600


class Deliveries:
    """The files under `root`. Many processes may use them at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._swept = 0

    def take(self, stamp: Stamp, *, now: datetime) -> bool:
        """Whether this is the first time that this delivery comes."""
        self._sweep(int(now.timestamp()))
        path = self._path(stamp)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True

    def note(self, stamp: Stamp, words: str) -> None:
        """Write down what came of a delivery that was taken; nothing if it was swept since."""
        with suppress(FileNotFoundError):
            os.truncate(path := self._path(stamp), 0)
            path.write_text(f"{words}\n")

    def _path(self, stamp: Stamp) -> Path:
        return self.root / str(int(stamp.at.timestamp()) // _BUCKET_SECONDS) / stamp.delivery_id

    def _sweep(self, now: int) -> None:
        """Once a bucket: drop those of which no delivery is believed any more."""
        if self._swept == now // _BUCKET_SECONDS:
            return
        self._swept = now // _BUCKET_SECONDS
        oldest = (now - int(WINDOW.total_seconds())) // _BUCKET_SECONDS - 1
        for folder in self.root.glob("*"):
            if folder.name.isdecimal() and int(folder.name) < oldest:
                shutil.rmtree(folder, ignore_errors=True)

"""When the home's files change: told by Linux, at once; where it cannot, they are looked at in turn."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from collections.abc import Callable
from pathlib import Path

# From <sys/inotify.h>: what puts another file in a file's place, and what begins a folder.
_IN_MOVED_TO, _IN_CREATE = 0x80, 0x100
# What was missed, by whatever chance, is found then.
_LOOK_EVERY_SECONDS = 5.0
_LOOK_EVERY_SECONDS_WITHOUT = 0.1

log = logging.getLogger(__name__)


class Changes:
    """Calls `changed` in the running loop after a file in one of the folders, or in a folder of `parent`, is
    replaced."""

    def __init__(self, folders: tuple[Path, ...], parent: Path, changed: Callable[[], None]) -> None:
        self._folders, self._parent, self._changed = folders, parent, changed
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._watched: set[Path] = set()
        self._timer: asyncio.TimerHandle | None = None
        start = getattr(self._libc, "inotify_init1", None)
        self._descriptor: int = start(os.O_NONBLOCK | os.O_CLOEXEC) if start else -1
        self._every = _LOOK_EVERY_SECONDS if self._descriptor >= 0 else _LOOK_EVERY_SECONDS_WITHOUT

    def start(self) -> None:
        """In the loop. What changes from now on is told."""
        loop = asyncio.get_running_loop()
        if self._descriptor >= 0:
            loop.add_reader(self._descriptor, self._told)
        else:
            log.warning("Linux watches no more files for this user: they are looked at every 0.1 s instead")
        self._watch_folders()
        self._timer = loop.call_later(self._every, self._look)

    def stop(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _told(self) -> None:
        try:
            os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return
        self._watch_folders()
        self._changed()

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every, self._look)
        self._watch_folders()
        self._changed()

    def _watch_folders(self) -> None:
        for folder in (*self._folders, self._parent, *self._parent.glob("*/")):
            if self._descriptor >= 0 and folder not in self._watched:
                found = self._libc.inotify_add_watch(
                    self._descriptor, os.fsencode(folder), _IN_MOVED_TO | _IN_CREATE
                )
                if found >= 0:
                    self._watched.add(folder)

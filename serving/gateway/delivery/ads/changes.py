"""When the home's files change: told by Linux, at once; where it cannot, they are looked at in turn."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

# From <sys/inotify.h>: what puts another file in a file's place, and what begins a folder.
_IN_MOVED_TO, _IN_CREATE = 0x80, 0x100
_EVENT = struct.Struct("iIII")
# What was missed, by whatever chance, is found then.
_LOOK_EVERY_SECONDS = 5.0
_LOOK_EVERY_SECONDS_WITHOUT = 0.1

log = logging.getLogger(__name__)


class Changes:
    """Calls `changed` in the running loop after a file in one of the folders, or in a folder of `parent`, is
    replaced: with the folders it is in, or None where it may be in any."""

    def __init__(
        self, folders: tuple[Path, ...], parent: Path, changed: Callable[[set[Path] | None], None]
    ) -> None:
        self._folders, self._parent, self._changed = folders, parent, changed
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._watched: dict[Path, int] = {}
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
            told = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return
        # A folder that is new may have been filled before it was watched.
        new = self._watch_folders()
        by_number = {number: folder for folder, number in self._watched.items()}
        self._changed({by_number[number] for number in _numbers(told) if number in by_number} | new)

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every, self._look)
        self._watch_folders()
        self._changed(None)

    def _watch_folders(self) -> set[Path]:
        before = set(self._watched)
        for folder in (*self._folders, self._parent, *self._parent.glob("*/")):
            if self._descriptor >= 0 and folder not in self._watched:
                found = self._libc.inotify_add_watch(
                    self._descriptor, os.fsencode(folder), _IN_MOVED_TO | _IN_CREATE
                )
                if found >= 0:
                    self._watched[folder] = found
        return self._watched.keys() - before


def _numbers(told: bytes) -> Iterator[int]:
    """The watches that events are of: each is a `struct inotify_event` and a name of its own length."""
    at = 0
    while at + _EVENT.size <= len(told):
        number, _, _, length = _EVENT.unpack_from(told, at)
        yield number
        at += _EVENT.size + length

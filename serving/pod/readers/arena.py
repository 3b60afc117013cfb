"""Memory that a reader and the pod share: the one receives large bodies into it, the other reads them."""

from __future__ import annotations

import mmap
import os
from collections import deque

import numpy as np

# Pages are the system's only once they are written to.
BYTES = 256 << 20
_LEAST = 1 << 17


class _Lent(np.ndarray):
    """Part of an arena. Once nobody has a view of it, its place is told to `freed`."""

    place: int = -1
    freed: deque[int] | None = None

    def __del__(self) -> None:
        if self.freed is not None:
            self.freed.append(self.place)


def create() -> int:
    """A descriptor of a new arena, for a process to inherit."""
    descriptor = os.memfd_create("slipway-bodies")
    os.ftruncate(descriptor, BYTES)
    return descriptor


class Arena:
    """One side's view. `freed`: places that nobody on this side looks at any more, in no order."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, BYTES)
        self.freed: deque[int] = deque()

    def view(self, place: int, size: int) -> memoryview:
        """So many bytes at a place."""
        lent = np.frombuffer(self._memory, np.uint8, size, place).view(_Lent)
        lent.place, lent.freed = place, self.freed
        return lent.data


class ArenaBuffers:
    """The reader's `Buffers`. Places double in size; one that was handed on is free once the pod says so."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._free: dict[int, list[int]] = {}
        self._sizes: dict[int, int] = {}
        self._end = 0
        self._handed: dict[int, memoryview] = {}

    def take(self, size: int) -> memoryview:
        """Memory of the arena; where it has none left, of the process."""
        self._collect()
        rounded = max(_LEAST, 1 << (size - 1).bit_length())
        places = self._free.get(rounded)
        if places:
            place = places.pop()
        elif self._end + rounded <= BYTES:
            place, self._end = self._end, self._end + rounded
            self._sizes[place] = rounded
        else:
            return np.empty(size, np.uint8).data
        return self._arena.view(place, size)

    def hand_on(self, body: memoryview) -> tuple[int, int, int] | None:
        """The place of a body for the pod, where it begins there, and its size; None of other memory."""
        lent = body.obj
        if not isinstance(lent, _Lent):
            return None
        self._handed[lent.place] = body
        start = np.frombuffer(body, np.uint8).__array_interface__["data"][0]
        return lent.place, start - lent.__array_interface__["data"][0], len(body)

    def given_back(self, place: int) -> None:
        """The pod needs it no more."""
        self._handed.pop(place, None)

    def _collect(self) -> None:
        freed = self._arena.freed
        while freed:
            place = freed.popleft()
            self._free.setdefault(self._sizes[place], []).append(place)

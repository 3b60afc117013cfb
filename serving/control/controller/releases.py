"""The journal as the controller reads it: several times a second, but only what changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from serving.control.rollout.journal import Journal, read_state
from serving.control.rollout.plan import RolloutState

# A folder's time stamp may be coarser than two renames are apart; one this young is looked at again.
_SETTLED_NS = 50_000_000

_Stamp = tuple[int, int, int]


class JournalView:
    """Latest states of all releases. `apart` keeps trouble with one file from the others."""

    def __init__(self, journal: Journal, apart: Callable[[str], AbstractContextManager[None]]) -> None:
        self._journal, self._apart = journal, apart
        self._folders: dict[str, tuple[int, list[RolloutState]]] = {}
        self._files: dict[Path, tuple[_Stamp, RolloutState]] = {}

    def of(self, service: str) -> list[RolloutState]:
        """The service's releases, oldest first; those whose file cannot be read are left out."""
        changed = os.stat(f"{self._journal.root}/{service}").st_mtime_ns  # noqa: PTH116 - Path is too slow
        known = self._folders.get(service)
        if known and known[0] == changed:
            return known[1]
        files = self._journal.files(service)
        states = sorted(self._readable(files), key=lambda state: state.started_at)
        # What could not be read now may be readable soon without any change to the folder.
        is_settled = abs(time.time_ns() - changed) > _SETTLED_NS and len(states) == len(files)
        self._folders[service] = (changed if is_settled else -1, states)
        return states

    def _readable(self, files: list[Path]) -> Iterator[RolloutState]:
        for path in files:
            with self._apart(path.stem):
                yield self._state(path)

    def _state(self, path: Path) -> RolloutState:
        stat = path.stat()
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        known = self._files.get(path)
        if known is None or known[0] != stamp:
            known = self._files[path] = (stamp, read_state(path))
        return known[1]

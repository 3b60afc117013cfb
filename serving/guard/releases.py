"""The journal as the guard reads it: several times a second, but only what changed."""

from __future__ import annotations

import os
import time
from pathlib import Path

from serving.rollout.journal import Journal, read_state
from serving.rollout.plan import RolloutState

# A folder's time stamp may be coarser than two renames are apart; one this young is looked at again.
_SETTLED_NS = 50_000_000

_Stamp = tuple[int, int, int]


class Releases:
    """Latest states of all releases."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._folders: dict[str, tuple[int, list[RolloutState]]] = {}
        self._files: dict[Path, tuple[_Stamp, RolloutState]] = {}

    def of(self, service: str) -> list[RolloutState]:
        """The service's releases, oldest first."""
        changed = os.stat(f"{self._journal.root}/{service}").st_mtime_ns  # noqa: PTH116 - Path is too slow
        known = self._folders.get(service)
        if known and known[0] == changed:
            return known[1]
        states = sorted(map(self._state, self._journal.files(service)), key=lambda state: state.started_at)
        is_settled = abs(time.time_ns() - changed) > _SETTLED_NS
        self._folders[service] = (changed if is_settled else -1, states)
        return states

    def _state(self, path: Path) -> RolloutState:
        stat = path.stat()
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        known = self._files.get(path)
        if known is None or known[0] != stamp:
            known = self._files[path] = (stamp, read_state(path))
        return known[1]

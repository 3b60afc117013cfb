"""Which releases and rollbacks were saved since somebody asked last."""

from __future__ import annotations

from serving.ledger.base import Rows
from serving.ledger.rows import ReleaseChangeRow

# Of those that are saved at once the later number may be there first: so many are looked at again.
_OVERLAP = 50


class ChangedReleases:
    """Of one asker and one thread at a time. What was saved before the first question is not told."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._seen: int | None = None
        self._known: set[int] = set()

    def take(self) -> list[ReleaseChangeRow]:
        """Those since the last call; none at the first. Raises `Retryable`, and tells them the next time."""
        if self._seen is None:
            found = self._rows.find(ReleaseChangeRow, newest=_OVERLAP)
            changed: list[ReleaseChangeRow] = []
        else:
            found = self._rows.find(ReleaseChangeRow, after=max(0, self._seen - _OVERLAP))
            changed = [each for each in found if each.number not in self._known]
        self._known = {each.number for each in found}
        self._seen = max([self._seen or 0, *self._known])
        return changed

"""What releases that have not ended need of the store: they may wait for people, a freeze or their turn.

Read from what `serving.control.releases` and `serving.control.queries.outcomes` keep of each release, and
from the release locks. Nothing here asks Airflow, whose runs may be gone while the release still has its
turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any

from serving.control.releases import FORGOTTEN
from serving.control.wiring import Services
from serving.ledger.rows import LockRow, ReleaseRecord

# So many rows are asked for at once.
_PIECE = 200


@dataclass(frozen=True, slots=True)
class Needed:
    """Ids of bundles, and digests of other bytes."""

    bundles: frozenset[str]
    blobs: frozenset[str]


def needed_by_unfinished(services: Services) -> Needed:
    """Of all releases that have not ended. Raises ValueError, KeyError or TypeError for unreadable rows."""
    turns = services.rows.find(LockRow)
    in_line = {name for turn in turns for name in (turn.holder, turn.waiting) if name}
    published = [built for row in _rows(services) for built in _unfinished(row, in_line)]
    return Needed(
        bundles=frozenset(built["id"] for built in published),
        blobs=frozenset(
            digest for built in published for digest in (*built["gated"], built.get("sample")) if digest
        ),
    )


def _rows(services: Services) -> Iterator[ReleaseRecord]:
    for skip in count(0, _PIECE):
        rows = services.rows.find(ReleaseRecord, newest=_PIECE, skip=skip)
        yield from (row for row in rows if row.status != FORGOTTEN)
        if len(rows) < _PIECE:
            return


def _unfinished(row: ReleaseRecord, in_line: set[str]) -> Iterator[Mapping[str, Any]]:
    """What the release's run published, if that is not over."""
    saved = row.document
    published = saved.get("bundles", [])
    if published and (row.id in in_line or not _has_ended(row, published[-1]["at"])):
        yield from published


def _has_ended(row: ReleaseRecord, published_at: str) -> bool:
    """An ending that is older than what was published last ended an earlier run of the release."""
    if row.document["request"]["dry_run"]:
        return True
    return row.ended_at is not None and row.ended_at >= datetime.fromisoformat(published_at)

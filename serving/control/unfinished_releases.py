"""What releases that have not ended need of the store: they may wait for people, a freeze or their turn.

Read from what `serving.control.releases` and `serving.control.queries.outcomes` keep of each release, and
from the release locks. Nothing here asks Airflow, whose runs may be gone while the release still has its
turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from serving.control.wiring import Services


@dataclass(frozen=True, slots=True)
class Needed:
    """Ids of bundles, and digests of other bytes."""

    bundles: frozenset[str]
    blobs: frozenset[str]


def needed_by_unfinished(services: Services) -> Needed:
    """Of all releases that have not ended. Raises ValueError, KeyError or TypeError for unreadable files."""
    folders = _folders(services.home.releases)
    published = [built for folder in folders for built in _unfinished(services, folder)]
    return Needed(
        bundles=frozenset(built["id"] for built in published),
        blobs=frozenset(
            digest for built in published for digest in (*built["gated"], built.get("sample")) if digest
        ),
    )


def _unfinished(services: Services, folder: Path) -> Iterator[dict[str, Any]]:
    """What the runs of this model's releases published that are not over."""
    lock = services.lock.read(folder.name)
    in_line = {claim.release_id for claim in (lock.holder, lock.waiting) if claim}
    for path in sorted(folder.glob("*.json")):
        saved = orjson.loads(path.read_bytes())
        published = saved.get("bundles", [])
        if published and (saved["id"] in in_line or not _has_ended(folder, saved, published[-1]["at"])):
            yield from published


def _has_ended(folder: Path, saved: dict[str, Any], published_at: str) -> bool:
    """An ending that is older than what was published last ended an earlier run of the release."""
    if saved["request"]["dry_run"]:
        return True
    try:
        outcome = orjson.loads((folder / "outcomes" / f"{saved['id']}.json").read_bytes())
    except FileNotFoundError:
        return False
    return datetime.fromisoformat(outcome["at"]) >= datetime.fromisoformat(published_at)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*") if path.is_dir())

"""Changes of one row that are decided on what it says now, whoever else changes it meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from serving.ledger.base import Rows, StaleGeneration
from serving.ledger.rows import K

# Of those who change one row at once each lets another one through.
_ATTEMPTS = 50


def change(rows: Rows, kind: type[K], key: str, made: Callable[[K], K | None]) -> K:
    """Save what `made` makes of the row, unless that is None; returns the row as it stands.

    Raises `Unknown` where there is no such row, and what `Rows.save` raises.
    """
    for _ in range(_ATTEMPTS):
        row = rows.get(kind, key)
        if (changed := made(row)) is None:
            return row
        try:
            (stands,) = rows.save(changed)
        except StaleGeneration:
            continue
        assert isinstance(stands, kind)
        return stands
    raise StaleGeneration(
        f"{kind.kind_name().lower()} {key} keeps changing", remedy="try again", delay_seconds=1
    )

"""What served when: the ledger keeps a change with every write of a route."""

from __future__ import annotations

from serving.gateway.router.base import RouteChange, ServedArm
from serving.ledger import rows as ledger
from serving.ledger.base import Rows


class LedgerHistory:
    """`RouteHistory` in the ledger's rows. An offset is the number of a change."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def read(self, *, offset: int = 0) -> tuple[list[RouteChange], int]:
        found = self._rows.find(ledger.RouteChangeRow, after=offset)
        return [_change(row) for row in found], max((row.number for row in found), default=offset)


def _change(row: ledger.RouteChangeRow) -> RouteChange:
    candidate = row.candidate_weight
    return RouteChange(
        at=row.at,
        service=row.service,
        revision=row.revision,
        stable=_served(row.stable_version, row.stable_bundle_id, 100 - candidate),
        candidate=_served(row.candidate_version, row.candidate_bundle_id, candidate),
    )


def _served(version: int | None, bundle_id: str | None, weight: float) -> ServedArm | None:
    return None if version is None or bundle_id is None else ServedArm(version, bundle_id, weight)

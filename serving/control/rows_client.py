"""The ledger's rows for processes that do not have the ledger: asked of the controller, which does.

The stores of this package (`audit`, `freezes`, `outbox` ...) take any `Rows`: the ledger itself inside the
controller, this everywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from serving.control.controller_link import ControllerLink
from serving.home import Home
from serving.ledger import wire
from serving.ledger.base import Change, Fence, Wanted
from serving.ledger.rows import Kept, MessageRow, R, Row


class RowsClient:
    """`serving.ledger.base.Rows` over HTTP. Opens nothing before it is asked.

    Raises what the ledger raises, and `ControllerDown`: of a write nobody knows then whether it was
    written, and doing it once more does no harm.
    """

    def __init__(self, home: Home) -> None:
        self._ask = ControllerLink(home).ask

    def save(self, *changes: Change, fence: Fence | None = None) -> tuple[Row, ...]:
        _require_none(fence)
        said = {"changes": [wire.change_to_json(change) for change in changes]}
        return tuple(_rows(self._ask("POST", "/v1/rows", said)["rows"]))

    def create(self, row: Kept, *, fence: Fence | None = None) -> bool:
        _require_none(fence)
        return bool(self._ask("POST", "/v1/rows/create", wire.row_to_json(row))["is_created"])

    def get(self, kind: type[R], key: str | int) -> R:
        path = f"/v1/rows/{kind.kind_name()}/{quote(str(key))}"
        return _as(kind, wire.row_from_json(self._ask("GET", path)))

    def find(
        self,
        kind: type[R],
        /,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        after: int | None = None,
        newest: int | None = None,
        skip: int = 0,
        **equal: Wanted,
    ) -> list[R]:
        (found,) = self.ask(wire.Query(kind, since, until, after, newest, skip, equal))
        return [_as(kind, row) for row in found]

    def ask(self, *queries: wire.Query) -> list[list[Row]]:
        """Several questions by one request, each answered by a list."""
        said = {"queries": [wire.query_to_json(query) for query in queries]}
        return [_rows(found) for found in self._ask("POST", "/v1/rows/find", said)["found"]]

    def require_room(self) -> None:
        self._ask("GET", "/v1/room")

    def claim(self, *, seconds: float, limit: int) -> list[MessageRow]:
        told = self._ask("POST", "/v1/letters/claim", {"seconds": seconds, "limit": limit})
        return [_as(MessageRow, row) for row in _rows(told["rows"])]


def _rows(told: Sequence[Any]) -> list[Row]:
    return [wire.row_from_json(one) for one in told]


def _as(kind: type[R], row: Row) -> R:
    if not isinstance(row, kind):
        raise wire.Malformed(f"the controller answered with a {row.kind_name()}, not a {kind.kind_name()}")
    return row


def _require_none(fence: Fence | None) -> None:
    """Only who holds the lease writes under it, and that is the controller."""
    if fence is not None:
        raise wire.Malformed("a fence is shown to the ledger, not to the controller")

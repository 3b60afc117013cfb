"""The ledger's rows over the controller's API: what other processes read, and what they may write.

Rollouts and routes are the controller's own and are only read here. A change is
written whole or not at all, and its rows carry the generations that it was decided on, so the same request
sent twice is refused or changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.requests import Request as HttpRequest

from model_store.errors import Permanent
from serving.ledger import wire
from serving.ledger.base import Change, Head, Ledger, Once, Rows
from serving.ledger.rows import (
    ApprovalRow,
    AttemptRow,
    AuditRow,
    DeliveryRow,
    FreezeRow,
    Kept,
    LockRow,
    MessageRow,
    NoteRow,
    OverrideRow,
    ReleaseRecord,
    RequestRow,
    Row,
)

WRITABLE: tuple[type[Row], ...] = (
    ReleaseRecord,
    LockRow,
    AttemptRow,
    ApprovalRow,
    FreezeRow,
    OverrideRow,
    NoteRow,
    RequestRow,
    DeliveryRow,
    MessageRow,
    AuditRow,
)
# In one request; more is no question that a page or a task has.
MOST_QUERIES, MOST_CHANGES, MOST_LETTERS = 100, 100, 100
LONGEST_CLAIM_SECONDS = 600

Act = Callable[[Rows, HttpRequest, dict[str, Any]], Any]


def save(rows: Rows, _: HttpRequest, said: dict[str, Any]) -> Any:
    changes = [wire.change_from_json(one) for one in _list(said, "changes", at_most=MOST_CHANGES)]
    _require_writable(changes)
    return {"rows": [wire.row_to_json(row) for row in rows.save(*changes)]}


def create(rows: Rows, _: HttpRequest, said: dict[str, Any]) -> Any:
    row = wire.row_from_json(said)
    _require_writable([row])
    if not isinstance(row, Kept):
        raise wire.Malformed(f"{row.kind_name()} is saved, not created")
    return {"is_created": rows.create(row)}


def find(rows: Rows, _: HttpRequest, said: dict[str, Any]) -> Any:
    """Several questions at once, each answered by a list."""
    queries = [wire.query_from_json(one) for one in _list(said, "queries", at_most=MOST_QUERIES)]
    return {"found": [[wire.row_to_json(row) for row in query.answered_by(rows)] for query in queries]}


def get(rows: Rows, request: HttpRequest, _: dict[str, Any]) -> Any:
    kind = wire.kind_of(request.path_params["kind"])
    key = request.path_params["key"]
    return wire.row_to_json(rows.get(kind, key if issubclass(kind, Kept) else int(key)))


def require_room(rows: Rows, _: HttpRequest, __: dict[str, Any]) -> Any:
    rows.require_room()
    return {}


def claim(rows: Rows, _: HttpRequest, said: dict[str, Any]) -> Any:
    """Letters for one who delivers them, for a while."""
    seconds, limit = said.get("seconds"), said.get("limit")
    if not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST_CLAIM_SECONDS:
        raise wire.Malformed(f"seconds is not between 0 and {LONGEST_CLAIM_SECONDS}")
    if not isinstance(limit, int) or not 0 < limit <= MOST_LETTERS:
        raise wire.Malformed(f"limit is not between 1 and {MOST_LETTERS}")
    return {"rows": [wire.row_to_json(row) for row in rows.claim(seconds=seconds, limit=limit)]}


def back_up(ledger: Ledger, _: HttpRequest, said: dict[str, Any]) -> Any:
    """A copy in a file on this machine, and the head of its trail."""
    target = Path(str(said.get("target", "")))
    if not target.is_absolute():
        raise wire.Malformed("target is no absolute path")
    ledger.backup(target)
    return asdict(ledger.verify_audit())


def verify(ledger: Ledger, _: HttpRequest, said: dict[str, Any]) -> Any:
    """The head of the trail, every hash computed anew."""
    known = Head(int(said["number"]), str(said.get("hash", ""))) if "number" in said else None
    return asdict(ledger.verify_audit(known))


LEDGER_ROUTES = (("POST", "/v1/ledger/backup", back_up), ("POST", "/v1/ledger/verify", verify))

# Method, path and what is done there. Keys have slashes.
ROUTES: tuple[tuple[str, str, Act], ...] = (
    ("POST", "/v1/rows", save),
    ("POST", "/v1/rows/create", create),
    ("POST", "/v1/rows/find", find),
    ("GET", "/v1/rows/{kind}/{key:path}", get),
    ("GET", "/v1/room", require_room),
    ("POST", "/v1/letters/claim", claim),
)


def _require_writable(changes: Sequence[Change]) -> None:
    for change in changes:
        row = change.row if isinstance(change, Once) else change
        if not isinstance(row, WRITABLE):
            raise Permanent(
                f"{row.kind_name()} rows are the controller's own",
                remedy="ask it for the act that changes them",
            )


def _list(said: dict[str, Any], name: str, *, at_most: int) -> list[Any]:
    found = said.get(name)
    if not isinstance(found, list) or not found or len(found) > at_most:
        raise wire.Malformed(f"{name} is no list of 1 to {at_most}")
    return found

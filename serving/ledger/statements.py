"""The statements that rows are written and read by, each inside a transaction that somebody else began."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any

import orjson
from sqlalchemy import Connection, Executable, RowMapping, Select, Table, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from model_store.durable import canonical_json
from serving.ledger import chain, schema, terms
from serving.ledger.base import (
    Change,
    Fence,
    Fenced,
    Head,
    Lease,
    Once,
    StaleGeneration,
    UnknownField,
    Wanted,
)
from serving.ledger.rows import (
    Appended,
    AuditRow,
    Kept,
    R,
    ReleaseChangeRow,
    ReleaseRecord,
    RequestRow,
    RouteChangeRow,
    RouteRow,
    Row,
    normalised,
    saved,
    searched,
)
from serving.ledger.schema import AUDIT_HEAD, LEASES, TABLES

# Made once: this one goes before every write.
_LEASE = select(LEASES).where(LEASES.c.name == bindparam("of"))
_LEASES = {
    "": _LEASE,
    "for share": _LEASE.with_for_update(read=True),
    "for update": _LEASE.with_for_update(),
}


def require_held(connection: Connection, fence: Fence) -> None:
    """Until this transaction ends nobody else can get the lease (on SQLite nobody writes at all)."""
    lease = read_lease(connection, fence.name, lock="for share")
    if lease is None or not terms.is_held(lease, fence):
        raise Fenced.of(fence, lease)


def read_lease(connection: Connection, name: str, *, lock: str = "") -> Lease | None:
    """`lock`: "for share", so that it stays whose it is, or "for update"."""
    found = connection.execute(_LEASES[lock], {"of": name}).first()
    return Lease(*found) if found else None


def where_held(statement: Any, fence: Fence) -> Any:
    mine = LEASES.c.name == fence.name, LEASES.c.token == fence.token, LEASES.c.holder == fence.holder
    return statement.where(*mine)


def save_one(connection: Connection, change: Change) -> Row:
    row = row_of(change)
    if isinstance(row, AuditRow):
        return append_entry(connection, row)
    if isinstance(row, Appended):
        return _append(connection, row)
    assert isinstance(row, Kept)
    if isinstance(change, Once):
        if not insert(connection, saved(row)):
            return _there(connection, row)
    elif not (insert(connection, saved(row)) if row.generation == 0 else _replace(connection, row)):
        raise StaleGeneration.of(row, now=_generation(connection, row))
    follow(connection, saved(row))
    return saved(row)


def follow(connection: Connection, row: Kept) -> bool:
    """What a saved row leaves elsewhere."""
    if isinstance(row, RouteRow):
        _append(connection, RouteChangeRow.of(row))
    elif isinstance(row, ReleaseRecord | RequestRow):
        _append(connection, ReleaseChangeRow.of(row))
    return True


def insert(connection: Connection, row: Row) -> bool:
    """Whether it was not there."""
    values = columns(row)
    if isinstance(row, Appended) and not row.number:
        del values["number"]
    return bool(connection.execute(insert_of(connection, TABLES[type(row)]).values(values)).rowcount)


def insert_of(connection: Connection, table: Table) -> Any:
    """Into a table in which the key may be. Whether it was is the statement's row count."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


def _replace(connection: Connection, row: Kept) -> bool:
    """Whether it was at the generation that the row carries."""
    table = TABLES[type(row)]
    mine = table.c[row.KEY] == row.key, table.c.generation == row.generation
    return bool(connection.execute(update(table).where(*mine).values(columns(saved(row)))).rowcount)


def _append(connection: Connection, row: Appended) -> Appended:
    values = columns(row)
    del values["number"]
    number = connection.execute(TABLES[type(row)].insert().values(values)).inserted_primary_key
    return replace(row, number=number[0] if number else 0)


def append_entry(connection: Connection, entry: AuditRow) -> AuditRow:
    head = read_head(connection, lock=True)
    known = connection.execute(select(schema.AUDIT).where(schema.AUDIT.c.id == entry.id)).mappings().first()
    if known:
        return row_from(AuditRow, known)
    added = chain.linked(entry, head)
    connection.execute(schema.AUDIT.insert().values(columns(added)))
    connection.execute(update(AUDIT_HEAD).values(number=added.number, hash=added.hash))
    return added


def read_head(connection: Connection, *, lock: bool = False) -> Head:
    query = select(AUDIT_HEAD.c.number, AUDIT_HEAD.c.hash)
    found = connection.execute(query.with_for_update() if lock else query).one()
    return Head(*found)


def _generation(connection: Connection, row: Kept) -> int:
    table = TABLES[type(row)]
    found = connection.execute(select(table.c.generation).where(table.c[row.KEY] == row.key)).scalar()
    return int(found or 0)


def _there(connection: Connection, row: Kept) -> Kept:
    table = TABLES[type(row)]
    found = connection.execute(select(table).where(table.c[row.KEY] == row.key)).mappings().one()
    return row_from(type(row), found)


def matching(kind: type[Row], equal: Mapping[str, Wanted]) -> Select[Any]:
    table, known = TABLES[kind], searched(kind)
    query = select(table)
    for name, wanted in equal.items():
        if name not in known:
            raise UnknownField.of(kind, name, known=known)
        if isinstance(wanted, Collection) and not isinstance(wanted, str):
            query = query.where(table.c[name].in_(wanted))
        else:
            query = query.where(table.c[name] == wanted)
    return query


def number_of(kind: type[Row]) -> str:
    if not issubclass(kind, Appended):
        raise UnknownField.of(kind, "number", known=searched(kind))
    return kind.KEY


def ordered(query: Select[Any], kind: type[Row], newest: int | None, skip: int) -> Executable:
    table = TABLES[kind]
    order = [table.c[kind.KEY]] if issubclass(kind, Appended) else [table.c[kind.AT], table.c[kind.KEY]]
    if newest is None:
        return query.order_by(*order)
    return query.order_by(*(column.desc() for column in order)).limit(newest).offset(skip)


def normalised_change(change: Change) -> Change:
    return Once(normalised(change.row)) if isinstance(change, Once) else normalised(change)


def row_of(change: Change) -> Row:
    return change.row if isinstance(change, Once) else change


def columns(row: Row) -> dict[str, Any]:
    """Of a normalised row."""
    values = {each.name: getattr(row, each.name) for each in fields(row)}
    if "document" in values:
        values["document"] = canonical_json(values["document"]).decode()
    return values


def row_from(kind: type[R], found: RowMapping) -> R:
    values: dict[str, Any] = dict(found)
    if "document" in values:
        values["document"] = orjson.loads(values["document"])
    return kind(**values)

"""The ledger in a database: SQLite or PostgreSQL, by the same statements."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Executable,
    delete,
    func,
    or_,
    select,
    text,
    update,
)

from serving.ledger import chain, schema, terms
from serving.ledger.base import (
    PRUNED,
    Change,
    Fence,
    Fenced,
    Head,
    ImportedFile,
    Lease,
    Unknown,
    Wanted,
)
from serving.ledger.database import Database
from serving.ledger.rows import (
    AuditRow,
    Kept,
    MessageRow,
    ObservationRow,
    R,
    ReleaseRecord,
    RequestRow,
    Row,
    as_text,
    in_turn,
    normalised,
    saved,
)
from serving.ledger.schema import ADOPTED, LEASES, LETTERS, OBSERVATIONS, TABLES
from serving.ledger.statements import (
    append_entry,
    columns,
    follow,
    insert,
    insert_of,
    matching,
    normalised_change,
    number_of,
    ordered,
    read_head,
    read_lease,
    require_held,
    row_from,
    row_of,
    save_one,
    where_held,
)

Clock = Callable[[Connection], datetime]
_KNOWN = 5
_OBSERVE = OBSERVATIONS.insert()
_PIECE = 1000


def database_clock(connection: Connection) -> datetime:
    """The time of the machine that the database runs on."""
    if connection.dialect.name == "postgresql":
        told: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return told.astimezone(UTC)
    text_of_now = connection.execute(text("SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now')")).scalar_one()
    return datetime.fromisoformat(text_of_now)


def _some(key: Column[Any], *which: Any) -> Executable:
    """Removes at most a piece of them."""
    return delete(key.table).where(key.in_(select(key).where(*which).limit(_PIECE)))


def _written(one: ObservationRow) -> dict[str, Any]:
    """As `columns` of the normalised row, at half the price: a document is made text only once."""
    lean = columns(normalised(replace(one, document={})))
    del lean["number"]
    return {**lean, "document": as_text("document", one.document)}


class SqlLedger:
    """`serving.ledger.base.Ledger`. The tables have to be there: `serving.ledger.opening.open_ledger`."""

    def __init__(self, database: Database, *, clock: Clock = database_clock) -> None:
        self.database = database
        self._clock = clock

    def save(self, *changes: Change, fence: Fence | None = None) -> tuple[Row, ...]:
        ready = [normalised_change(change) for change in changes]
        in_order = sorted(range(len(ready)), key=lambda place: in_turn(row_of(ready[place])))
        with self._writing(fence) as connection:
            done = {place: save_one(connection, ready[place]) for place in in_order}
        return tuple(done[place] for place in range(len(ready)))

    def create(self, row: Kept, *, fence: Fence | None = None) -> bool:
        ready = normalised(row)
        with self._writing(fence) as connection:
            return insert(connection, saved(ready)) and follow(connection, saved(ready))

    def get(self, kind: type[R], key: str | int) -> R:
        table = TABLES[kind]
        with self.database.reading() as connection:
            wanted = select(table).where(table.c[kind.KEY] == key)
            found = connection.execute(wanted).mappings().first()
        if found is None:
            raise Unknown.of(kind, str(key), known=self._latest(kind))
        return row_from(kind, found)

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
        query = matching(kind, equal)
        at, table = TABLES[kind].c[kind.AT], TABLES[kind]
        if since is not None:
            query = query.where(at >= since)
        if until is not None:
            query = query.where(at <= until)
        if after is not None:
            query = query.where(table.c[number_of(kind)] > after)
        with self.database.reading() as connection:
            found = connection.execute(ordered(query, kind, newest, skip)).mappings()
            return [row_from(kind, one) for one in found]

    def observe(self, *observations: ObservationRow, fence: Fence | None = None) -> None:
        written = [_written(one) for one in observations]
        if written:
            with self._writing(fence, durably=False) as connection:
                connection.execute(_OBSERVE, written)

    def verify_audit(self, known: Head | None = None) -> Head:
        with self.database.reading() as connection:
            # The head first: of entries that come meanwhile those after it are not looked at.
            head = read_head(connection)
            audit = schema.AUDIT
            wanted = select(audit).where(audit.c.number <= head.number).order_by(audit.c.number)
            with connection.execute(wanted, execution_options={"yield_per": _PIECE}) as found:
                return chain.verified((row_from(AuditRow, one) for one in found.mappings()), head, known)

    def acquire(self, name: str, holder: str, *, seconds: float) -> Lease | None:
        with self.database.writing() as connection:
            before = read_lease(connection, name, lock="for update")
            after = terms.asked_for(before, name, holder, seconds=seconds, now=self._clock(connection))
            if before is None:
                is_first = connection.execute(insert_of(connection, LEASES).values(asdict(after)))
                return after if is_first.rowcount else None
            if after != before:
                connection.execute(update(LEASES).where(LEASES.c.name == name).values(asdict(after)))
            return after if terms.is_got(before, after) else None

    def renew(self, lease: Lease) -> Lease:
        with self.database.writing() as connection:
            now = self._clock(connection)
            if not connection.execute(
                where_held(update(LEASES), lease.fence).values(renewed_at=now)
            ).rowcount:
                raise Fenced.of(lease.fence, read_lease(connection, lease.name))
            return replace(lease, renewed_at=now)

    def release(self, lease: Lease) -> None:
        with self.database.writing() as connection:
            connection.execute(where_held(update(LEASES), lease.fence).values(holder=""))

    def lease(self, name: str) -> Lease | None:
        with self.database.reading() as connection:
            return read_lease(connection, name)

    def now(self) -> datetime:
        with self.database.reading() as connection:
            return self._clock(connection)

    def respect(self, lease: Lease) -> None:
        with self.database.writing() as connection:
            before = read_lease(connection, lease.name, lock="for update")
            if (
                before is None
                and connection.execute(insert_of(connection, LEASES).values(asdict(lease))).rowcount
            ):
                return
            # Somebody may have shown theirs in the same moment.
            before = before or read_lease(connection, lease.name, lock="for update")
            if not terms.is_respected(before, lease):
                raise Fenced.of(lease.fence, before)
            connection.execute(update(LEASES).where(LEASES.c.name == lease.name).values(asdict(lease)))

    def claim(self, *, seconds: float, limit: int) -> list[MessageRow]:
        column = LETTERS.c
        with self.database.writing() as connection:
            now = self._clock(connection)
            due = (
                select(LETTERS)
                .where(column.status == "waiting", column.next_at <= now)
                .where(or_(column.claimed_until.is_(None), column.claimed_until <= now))
                .order_by(column.at, column.id)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            until = now + timedelta(seconds=seconds)
            found = [row_from(MessageRow, one) for one in connection.execute(due).mappings().all()]
            claimed = [saved(replace(letter, claimed_until=until)) for letter in found]
            for letter in claimed:
                connection.execute(update(LETTERS).where(column.id == letter.id).values(columns(letter)))
            return claimed

    def prune(self, before: datetime, *, only: Collection[str] = PRUNED) -> Mapping[str, int]:
        rollouts, deliveries = schema.ROLLOUTS.c, schema.DELIVERIES.c
        over = select(rollouts.release_id).where(rollouts.is_over, rollouts.changed_at < before)
        done = LETTERS.c.status != "waiting", LETTERS.c.at < before
        forgotten = {
            "observations": _some(OBSERVATIONS.c.number, OBSERVATIONS.c.release_id.in_(over)),
            "deliveries": _some(deliveries.id, deliveries.at < before),
            "letters": _some(LETTERS.c.id, *done),
        }
        return {name: self._in_pieces(forgotten[name]) for name in only}

    def require_room(self) -> None:
        with self.database.writing():
            self.database.require_room()

    def adopt(self, source: ImportedFile, rows: Iterable[Row]) -> bool:
        ready = [normalised(row) for row in rows]
        with self.database.writing() as connection:
            entry = {"name": source.name, "digest": source.digest, "at": self._clock(connection)}
            if not connection.execute(insert_of(connection, ADOPTED).values(entry)).rowcount:
                return False
            for row in ready:
                if isinstance(row, AuditRow):
                    append_entry(connection, row)
                elif insert(connection, row) and isinstance(row, ReleaseRecord | RequestRow):
                    follow(connection, row)
            return True

    def adopted(self) -> Mapping[str, str]:
        with self.database.reading() as connection:
            found = connection.execute(select(ADOPTED.c.name, ADOPTED.c.digest))
            return {one.name: one.digest for one in found}

    def backup(self, target: Path) -> None:
        from serving.ledger.backup import back_up

        back_up(self.database, target)

    def close(self) -> None:
        self.database.engine.dispose()

    @contextmanager
    def _writing(self, fence: Fence | None, *, durably: bool = True) -> Iterator[Connection]:
        with self.database.writing(durably=durably) as connection:
            if fence:
                require_held(connection, fence)
            yield connection

    def _in_pieces(self, statement: Executable) -> int:
        """Nobody has to wait for all of it."""
        gone = 0
        while True:
            with self.database.writing() as connection:
                removed = connection.execute(statement).rowcount
            gone += removed
            if removed < _PIECE:
                return gone

    def _latest(self, kind: type[Row]) -> list[str]:
        return [str(getattr(row, kind.KEY)) for row in self.find(kind, newest=_KNOWN)]

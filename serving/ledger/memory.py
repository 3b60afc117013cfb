"""A ledger that is gone with its process: for tests, behind the same contract."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from model_store.errors import Permanent
from serving.ledger import chain, terms
from serving.ledger.base import (
    PRUNED,
    Change,
    Fence,
    Fenced,
    Head,
    ImportedFile,
    Lease,
    Once,
    StaleGeneration,
    Unknown,
    UnknownField,
    Wanted,
)
from serving.ledger.rows import (
    KINDS,
    Appended,
    AuditRow,
    DeliveryRow,
    Kept,
    MessageRow,
    ObservationRow,
    R,
    ReleaseChangeRow,
    ReleaseRecord,
    RequestRow,
    RolloutRow,
    RouteChangeRow,
    RouteRow,
    Row,
    in_turn,
    normalised,
    saved,
    searched,
)

_KNOWN = 5


@dataclass(slots=True)
class _Kept:
    """Everything: replaced as a whole by what a change that went well made of it."""

    rows: dict[type[Row], dict[str | int, Row]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    leases: dict[str, Lease] = field(default_factory=dict)
    adopted: dict[str, str] = field(default_factory=dict)
    head: Head = chain.EMPTY
    number: int = 0

    def copy(self) -> _Kept:
        rows = {kind: dict(each) for kind, each in self.rows.items()}
        return _Kept(rows, dict(self.leases), dict(self.adopted), self.head, self.number)


class MemoryLedger:
    """`serving.ledger.base.Ledger`, for the threads of one process."""

    def __init__(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._kept = _Kept()

    def save(self, *changes: Change, fence: Fence | None = None) -> tuple[Row, ...]:
        rows = [normalised(change.row if isinstance(change, Once) else change) for change in changes]
        once = [isinstance(change, Once) for change in changes]
        with self._writing(fence) as kept:
            in_order = sorted(range(len(rows)), key=lambda place: in_turn(rows[place]))
            done = {place: _save(kept, rows[place], once=once[place]) for place in in_order}
        return tuple(done[place] for place in range(len(rows)))

    def create(self, row: Kept, *, fence: Fence | None = None) -> bool:
        ready = normalised(row)
        with self._writing(fence) as kept:
            if ready.key in kept.rows[type(ready)]:
                return False
            _put(kept, saved(ready))
            return True

    def get(self, kind: type[R], key: str | int) -> R:
        found = self._kept.rows[kind].get(key)
        if found is None:
            raise Unknown.of(kind, str(key), known=[row.key for row in self.find(kind, newest=_KNOWN)])
        assert isinstance(found, kind)
        return found

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
        for name in [*equal, *(["number"] if after is not None else [])]:
            if name not in (known := searched(kind)):
                raise UnknownField.of(kind, name, known=known)
        found = [
            row
            for row in self._kept.rows[kind].values()
            if isinstance(row, kind)
            and all(_is_wanted(getattr(row, name), wanted) for name, wanted in equal.items())
            and (since is None or getattr(row, kind.AT) >= since)
            and (until is None or getattr(row, kind.AT) <= until)
            and (after is None or getattr(row, "number", 0) > after)
        ]
        found.sort(key=_order)
        return found if newest is None else found[::-1][skip : skip + newest]

    def require_room(self) -> None:
        return

    def observe(self, *observations: ObservationRow, fence: Fence | None = None) -> None:
        self.save(*observations, fence=fence)

    def verify_audit(self, known: Head | None = None) -> Head:
        kept = self._kept
        entries = [row for row in kept.rows[AuditRow].values() if isinstance(row, AuditRow)]
        return chain.verified(sorted(entries, key=_order), kept.head, known)

    def acquire(self, name: str, holder: str, *, seconds: float) -> Lease | None:
        with self._writing(None) as kept:
            before = kept.leases.get(name)
            after = terms.asked_for(before, name, holder, seconds=seconds, now=self._now())
            kept.leases[name] = after
            return after if terms.is_got(before, after) else None

    def renew(self, lease: Lease) -> Lease:
        with self._writing(lease.fence) as kept:
            kept.leases[lease.name] = replace(kept.leases[lease.name], renewed_at=self._now())
            return kept.leases[lease.name]

    def release(self, lease: Lease) -> None:
        with self._writing(None) as kept:
            if _is_held(kept, lease.fence):
                kept.leases[lease.name] = replace(kept.leases[lease.name], holder="")

    def lease(self, name: str) -> Lease | None:
        return self._kept.leases.get(name)

    def now(self) -> datetime:
        return self._now()

    def respect(self, lease: Lease) -> None:
        with self._writing(None) as kept:
            before = kept.leases.get(lease.name)
            if not terms.is_respected(before, lease):
                raise Fenced.of(lease.fence, before)
            kept.leases[lease.name] = lease

    def claim(self, *, seconds: float, limit: int) -> list[MessageRow]:
        with self._writing(None) as kept:
            now = self._now()
            due = [
                letter
                for letter in kept.rows[MessageRow].values()
                if isinstance(letter, MessageRow) and _is_due(letter, now)
            ]
            until = now + timedelta(seconds=seconds)
            claimed = [saved(replace(one, claimed_until=until)) for one in sorted(due, key=_order)[:limit]]
            for letter in claimed:
                _put(kept, letter)
            return claimed

    def prune(self, before: datetime, *, only: Collection[str] = PRUNED) -> Mapping[str, int]:
        with self._writing(None) as kept:
            forgotten: dict[str, Callable[[], int]] = {
                "observations": lambda: _forget(
                    kept, ObservationRow, lambda row: _was_over(kept, row, before)
                ),
                "deliveries": lambda: _forget(kept, DeliveryRow, lambda row: row.at < before),
                "letters": lambda: _forget(
                    kept, MessageRow, lambda row: row.status != "waiting" and row.at < before
                ),
            }
            return {name: forgotten[name]() for name in only}

    def adopt(self, source: ImportedFile, rows: Iterable[Row]) -> bool:
        ready = [normalised(row) for row in rows]
        with self._writing(None) as kept:
            if source.name in kept.adopted:
                return False
            kept.adopted[source.name] = source.digest
            for row in ready:
                if isinstance(row, Appended):
                    _append(kept, row)
                elif row.key not in kept.rows[type(row)]:
                    kept.rows[type(row)][row.key] = row
                    if isinstance(row, ReleaseRecord | RequestRow):
                        _append(kept, ReleaseChangeRow.of(row))
            return True

    def adopted(self) -> Mapping[str, str]:
        return dict(self._kept.adopted)

    def backup(self, target: Path) -> None:
        raise Permanent("a ledger in memory has nothing to copy", remedy="use one in a file")

    def close(self) -> None:
        """Nothing is open."""

    @contextmanager
    def _writing(self, fence: Fence | None) -> Iterator[_Kept]:
        with self._lock:
            kept = self._kept.copy()
            if fence and not _is_held(kept, fence):
                raise Fenced.of(fence, kept.leases.get(fence.name))
            yield kept
            self._kept = kept


def _is_held(kept: _Kept, fence: Fence) -> bool:
    lease = kept.leases.get(fence.name)
    return lease is not None and terms.is_held(lease, fence)


def _save(kept: _Kept, row: Row, *, once: bool) -> Row:
    if isinstance(row, Appended):
        return _append(kept, row)
    assert isinstance(row, Kept)
    known = kept.rows[type(row)].get(row.key)
    if once and known:
        return known
    now = known.generation if isinstance(known, Kept) else 0
    if row.generation != now:
        raise StaleGeneration.of(row, now=now)
    return _put(kept, saved(row))


def _put(kept: _Kept, row: Row) -> Row:
    kept.rows[type(row)][row.key] = row
    if isinstance(row, RouteRow):
        _append(kept, RouteChangeRow.of(row))
    elif isinstance(row, ReleaseRecord | RequestRow):
        _append(kept, ReleaseChangeRow.of(row))
    return row


def _append(kept: _Kept, row: Appended) -> Appended:
    if isinstance(row, AuditRow):
        same = [
            known
            for known in kept.rows[AuditRow].values()
            if isinstance(known, AuditRow) and known.id == row.id
        ]
        if same:
            return same[0]
        added: Appended = chain.linked(row, kept.head)
        kept.head = Head(added.number, chain.linked(row, kept.head).hash)
    else:
        kept.number += 1
        added = replace(row, number=kept.number)
    kept.rows[type(row)][added.number] = added
    return added


def _is_wanted(value: object, wanted: Wanted) -> bool:
    if isinstance(wanted, Collection) and not isinstance(wanted, str):
        return value in wanted
    return value == wanted


def _order(row: Row) -> tuple[object, ...]:
    return (row.number,) if isinstance(row, Appended) else (getattr(row, row.AT), row.key)


def _is_due(letter: MessageRow, now: datetime) -> bool:
    is_free = letter.claimed_until is None or letter.claimed_until <= now
    return letter.status == "waiting" and letter.next_at <= now and is_free


def _was_over(kept: _Kept, row: ObservationRow, before: datetime) -> bool:
    rollout = kept.rows[RolloutRow].get(row.release_id)
    return isinstance(rollout, RolloutRow) and rollout.is_over and rollout.changed_at < before


def _forget(kept: _Kept, kind: type[R], is_done: Callable[[R], bool]) -> int:
    gone = [key for key, row in kept.rows[kind].items() if isinstance(row, kind) and is_done(row)]
    for key in gone:
        del kept.rows[kind][key]
    return len(gone)

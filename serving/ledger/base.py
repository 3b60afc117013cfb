"""The port: the only place of state, what may be asked of it, and how it refuses.

A change is decided on rows that were read, and names their generations by carrying them. It is written whole
or not at all; where one of its rows has moved on, nothing is (`StaleGeneration`). Who writes under a lease
shows its fence; once somebody else has had the lease, nothing is written either (`Fenced`).

`Unreachable` while writing says that nobody knows whether it was written: read again. Doing the same once
more does no harm: the rows' generations, and the ids of audit entries, are those that it was decided on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from model_store.errors import Permanent, Retryable
from serving.ledger.rows import Kept, MessageRow, ObservationRow, R, Row

# Names the database; who does not say it has a file in the home (`serving.ledger.opening`).
URL_VARIABLE = "SLIPWAY_DATABASE_URL"

# What grows and is not kept for good.
PRUNED = ("observations", "deliveries", "letters")

Value = str | int | float | bool | datetime | None
Wanted = Value | Collection[str]


class StaleGeneration(Retryable):
    """Somebody else saved the row first. Read it again and decide again."""

    @classmethod
    def of(cls, row: Kept, *, now: int) -> StaleGeneration:
        stands = f"is at generation {now}" if now else "is not in the ledger"
        decided = f"on generation {row.generation}" if row.generation else "on there being none"
        return cls(
            f"{row.kind_name().lower()} {row.key} {stands}, the decision was made {decided}",
            remedy="read it again and decide again",
            delay_seconds=0,
        )


class Fenced(Permanent):
    """The lease is somebody else's by now: what its former holder decided is not written."""

    @classmethod
    def of(cls, fence: Fence, lease: Lease | None) -> Fenced:
        has = (
            f"{lease.holder or 'nobody'} has it under token {lease.token}" if lease else "nobody ever had it"
        )
        return cls(
            f"the lease {fence.name} of {fence.holder} under token {fence.token} is over: {has}",
            remedy="stop, and ask for the lease again",
        )


class Unknown(Permanent):
    """No row has this key."""

    @classmethod
    def of(cls, kind: type[Row], key: str, *, known: Iterable[str]) -> Unknown:
        return cls(
            f"there is no {kind.kind_name().lower()} {key}; the latest are: {', '.join(known) or 'none'}",
            remedy="check the name",
        )


class UnknownField(Permanent):
    """Rows are not found by this."""

    @classmethod
    def of(cls, kind: type[Row], name: str, *, known: Iterable[str]) -> UnknownField:
        return cls(
            f"{kind.kind_name()} rows are not found by {name!r}; they are by: {', '.join(known)}",
            remedy="ask by one of these",
        )


class Unreachable(Retryable):
    """The database is locked, gone or does not answer. It was waited for as long as is allowed."""


class Damaged(Permanent):
    """The database is there, and is not what it should be."""


class NewerLedger(Permanent):
    """A newer Slipway has changed the tables."""


class BrokenChain(Permanent):
    """The audit trail is not what was written. The words name the first entry that is not."""


@dataclass(frozen=True, slots=True)
class Fence:
    """What a holder shows with every write: the lease's name, who it is, and the token that it got with it.

    Who it is, because a ledger that was restored from a backup gives tokens again.
    """

    name: str
    holder: str
    token: int


@dataclass(frozen=True, slots=True)
class Lease:
    """Who may write until when, by the ledger's clock. `holder` is empty when it was given back.

    The holder itself counts `seconds` by its own uptime, from before it asked: so it stops before another
    begins, whatever their clocks say.
    """

    name: str
    holder: str
    token: int
    renewed_at: datetime
    seconds: float

    @property
    def expires_at(self) -> datetime:
        return self.renewed_at + timedelta(seconds=self.seconds)

    @property
    def fence(self) -> Fence:
        return Fence(self.name, self.holder, self.token)


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry of the audit trail. Kept elsewhere, it proves that nothing before it was changed."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Once:
    """In a change: write the row unless one with its key is there already."""

    row: Kept


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """A file whose rows were taken over (`serving.ledger.importing`)."""

    name: str
    digest: str


Change = Row | Once


class Rows(Protocol):
    """What is so now, and what was appended."""

    def save(self, *changes: Change, fence: Fence | None = None) -> tuple[Row, ...]:
        """Write all of it or nothing; returns the rows as they stand, in the same order.

        Of a power cut nothing that was returned is lost. Raises `StaleGeneration`, `Fenced`, `Unreachable`.
        """
        ...

    def create(self, row: Kept, *, fence: Fence | None = None) -> bool:
        """Write a row unless there is one with its key. Of several at once exactly one gets True."""
        ...

    def get(self, kind: type[R], key: str | int) -> R:
        """Raises `Unknown` listing the latest ones."""
        ...

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
        """Rows whose fields are as in `equal` (one of several, if it is a collection), the oldest first.

        `newest`: so many of the latest, the newest first, without the `skip` before them. `since` and `until`
        are inclusive. `after`: of appended rows, those with a higher number. Raises `UnknownField` listing
        what rows are found by.
        """
        ...

    def require_room(self) -> None:
        """Raises what `save` would raise now, as far as can be told: for acts that are written down after
        their effect."""
        ...

    def claim(self, *, seconds: float, limit: int) -> list[MessageRow]:
        """Letters that are due, the oldest first, for this caller alone until `seconds` are over.

        Save them as sent, or with their next try. Who dies over it leaves them to the next claim: a receiver
        may get a letter twice, and knows it by its id.
        """
        ...


class Observations(Protocol):
    """What is written several times a second. It may be lost with the machine's power, and nothing less."""

    def observe(self, *observations: ObservationRow, fence: Fence | None = None) -> None:
        """Append all of it or nothing. A process that is killed afterwards loses none; a power cut may lose
        the last ones, never some in the middle. Raises as `Rows.save`."""
        ...


class Audit(Protocol):
    """Entries are saved and found as other rows are (`Rows`)."""

    def verify_audit(self, known: Head | None = None) -> Head:
        """Compute the whole chain anew. `known`: a head that was kept elsewhere. Raises `BrokenChain`."""
        ...


class Leases(Protocol):
    """The port of who may write: at most one holder of a name. Every new holder gets a higher token.

    The ledger has its own; a platform's (a Kubernetes Lease) stands in for it where there is one. Its holder
    then shows the ledger what it got, once, before it writes (`Ledger.respect`). Implementations pass
    `tests/contract/leases_contract.py`. What cannot be asked now raises `Retryable`.
    """

    def acquire(self, name: str, holder: str, *, seconds: float) -> Lease | None:
        """Take the lease if nobody has it. `holder` names one process: it does not get what it has."""
        ...

    def renew(self, lease: Lease) -> Lease:
        """Have it for as long again, from now. Raises `Fenced` when somebody else had it since."""
        ...

    def release(self, lease: Lease) -> None:
        """Give it back, so that nobody has to wait. One that is lost already is no error."""
        ...

    def lease(self, name: str) -> Lease | None:
        """Who has it, or had it last."""
        ...


class Ledger(Rows, Observations, Audit, Leases, Protocol):
    """All of it. Implementations pass `tests/contract/ledger_contract.py`. Safe for many threads."""

    def now(self) -> datetime:
        """The ledger's clock, which leases and claims go by."""
        ...

    def respect(self, lease: Lease) -> None:
        """Take a lease that was got elsewhere (`Leases` of a platform): from now on its fence is the one that
        writes need. May be repeated. Raises `Fenced` where a later one, or another holder's, is known.
        """
        ...

    def prune(self, before: datetime, *, only: Collection[str] = PRUNED) -> Mapping[str, int]:
        """Forget observations of rollouts that were over by then, and deliveries and letters of before it.

        Letters that still wait stay. Returns how many of each. Nothing else is ever removed.
        """
        ...

    def adopt(self, source: ImportedFile, rows: Iterable[Row]) -> bool:
        """Take rows over as they are, generations too, once for each source; rows that are there stay as they
        are. False: this source was taken before, and nothing is written."""
        ...

    def adopted(self) -> Mapping[str, str]:
        """Digests of the sources that were taken over, by name."""
        ...

    def backup(self, target: Path) -> None:
        """Write everything into a new file while others go on, as of one moment (`serving.ledger.backup`)."""
        ...

    def close(self) -> None:
        """Give connections back. Asking afterwards opens new ones."""
        ...

"""The ledger as the controller has it: every write under its lease, and no waiting for one that is gone.

Once the ledger could not be reached, whoever asks is told so at once, and one of them tries again every
second: a look at the traffic must not wait for a database. What has to be written down waits in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from serving.ledger.base import PRUNED, Change, Fence, Head, ImportedFile, Lease, Ledger, Unreachable, Wanted
from serving.ledger.rows import Kept, MessageRow, ObservationRow, R, Row

AGAIN_SECONDS = 1.0
# How long one operation may wait for a ledger that is locked or does not answer.
PATIENCE_SECONDS = 0.4


class FencedLedger:
    """`serving.ledger.base.Ledger`. `fence` raises where this process may not write."""

    def __init__(
        self, ledger: Ledger, fence: Callable[[], Fence | None], *, monotonic: Callable[[], float]
    ) -> None:
        self._ledger, self._fence, self._monotonic = ledger, fence, monotonic
        self._guarded = threading.Lock()
        self._gone: Unreachable | None = None
        self._again_at = 0.0

    @property
    def problem(self) -> str:
        """Why the ledger cannot be used now; "" while it can."""
        return self._gone.problem if self._gone else ""

    def save(self, *changes: Change, fence: Fence | None = None) -> tuple[Row, ...]:
        with self._asking():
            return self._ledger.save(*changes, fence=fence or self._fence())

    def create(self, row: Kept, *, fence: Fence | None = None) -> bool:
        with self._asking():
            return self._ledger.create(row, fence=fence or self._fence())

    def get(self, kind: type[R], key: str | int) -> R:
        with self._asking():
            return self._ledger.get(kind, key)

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
        with self._asking():
            return self._ledger.find(
                kind, since=since, until=until, after=after, newest=newest, skip=skip, **equal
            )

    def observe(self, *observations: ObservationRow, fence: Fence | None = None) -> None:
        with self._asking():
            self._ledger.observe(*observations, fence=fence or self._fence())

    def claim(self, *, seconds: float, limit: int) -> list[MessageRow]:
        self._fence()
        with self._asking():
            return self._ledger.claim(seconds=seconds, limit=limit)

    def require_room(self) -> None:
        with self._asking():
            self._ledger.require_room()

    def verify_audit(self, known: Head | None = None) -> Head:
        return self._ledger.verify_audit(known)

    def acquire(self, name: str, holder: str, *, seconds: float) -> Lease | None:
        return self._ledger.acquire(name, holder, seconds=seconds)

    def renew(self, lease: Lease) -> Lease:
        return self._ledger.renew(lease)

    def release(self, lease: Lease) -> None:
        self._ledger.release(lease)

    def lease(self, name: str) -> Lease | None:
        return self._ledger.lease(name)

    def respect(self, lease: Lease) -> None:
        self._ledger.respect(lease)

    def now(self) -> datetime:
        with self._asking():
            return self._ledger.now()

    def prune(self, before: datetime, *, only: Collection[str] = PRUNED) -> Mapping[str, int]:
        self._fence()
        with self._asking():
            return self._ledger.prune(before, only=only)

    def adopt(self, source: ImportedFile, rows: Iterable[Row]) -> bool:
        self._fence()
        with self._asking():
            return self._ledger.adopt(source, rows)

    def adopted(self) -> Mapping[str, str]:
        with self._asking():
            return self._ledger.adopted()

    def backup(self, target: Path) -> None:
        self._ledger.backup(target)

    def close(self) -> None:
        self._ledger.close()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        self._refuse_while_gone()
        try:
            yield
        except Unreachable as gone:
            self._gone, self._again_at = gone, self._monotonic() + AGAIN_SECONDS
            raise
        self._gone = None

    def _refuse_while_gone(self) -> None:
        """Of those who ask while it is gone, one is let through when it is time to try again."""
        with self._guarded:
            gone = self._gone
            if gone is None:
                return
            if self._monotonic() >= self._again_at:
                self._again_at = self._monotonic() + AGAIN_SECONDS
                return
        raise Unreachable(gone.problem, remedy=gone.remedy, delay_seconds=AGAIN_SECONDS)

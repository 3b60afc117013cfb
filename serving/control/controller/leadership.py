"""Who of several controllers writes: the one that has the lease, until it is over by its own uptime.

The lease's store is a port (`serving.ledger.base.Leases`): the ledger's table, or the platform's own. Every
write shows the fence that came with the lease, and the ledger refuses those of before; so whoever was stopped
for longer than its lease and goes on writes nothing more, whatever it believes.

Without the store nobody can renew, and nobody else can take over either. Then the last holder may do one
thing only: return traffic to stable (`may_return`), which is safe from any hand.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from model_store.errors import SlipwayError
from serving.control.traffic import NotLeading
from serving.ledger.base import Fence, Fenced, Lease, Leases

NAME = "controller"
# The standby takes over after this long at most, where the holder did not say goodbye.
LEASE_SECONDS = 6.0
# So often it is renewed, or asked for.
EVERY_SECONDS = 1.5
# After the lease's store was away its last holder comes first: it alone knows what it did meanwhile.
GIVES_WAY_SECONDS = 2 * EVERY_SECONDS

log = logging.getLogger("slipway.controller")


def named(process: str, address: str) -> str:
    """A holder's name, by which those who stand by know where it is asked, too."""
    return f"{process} at {address}"


def address_in(holder: str) -> str:
    """Where this holder is asked; "" where its name does not say it."""
    return holder.rpartition(" at ")[2] if " at " in holder else ""


class Leadership:
    """`holder` names this process and no other; `monotonic` is the machine's uptime in seconds.

    `respect`: what shows a lease that a platform gave to the ledger (`Ledger.respect`); not needed where the
    ledger gave it. `begin` is called when this one becomes the holder, before anything is written under it.
    """

    def __init__(
        self,
        leases: Leases,
        holder: str,
        *,
        monotonic: Callable[[], float],
        seconds: float = LEASE_SECONDS,
        respect: Callable[[Lease], None] = lambda lease: None,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._leases, self._holder, self._seconds = leases, holder, seconds
        self._monotonic, self._respect, self._begin = monotonic, respect, begin
        self._lease: Lease | None = None
        self._until = float("-inf")
        self._known = ""
        self._gives_way_until = float("-inf")
        self.problem = ""

    @property
    def is_leading(self) -> bool:
        """Whether this one may write now."""
        return self._lease is not None and self._monotonic() < self._until

    @property
    def may_return(self) -> bool:
        """Whether it has the lease, or was the last to have it as far as anybody knows."""
        return self._lease is not None

    @property
    def holder(self) -> str:
        """Who has it, as was last heard; "" if nobody has."""
        return self._known

    def fence(self) -> Fence:
        """What a write has to show. Raises `NotLeading`."""
        lease = self._lease
        if lease is None or self._monotonic() >= self._until:
            is_other = bool(self._known) and lease is None
            has = f"{self._known} has the lease" if is_other else self.problem
            raise NotLeading.of(
                f"this controller does not write now: {has or 'it has no lease yet'}",
                remedy="ask that one; where it has ended, this one takes over within seconds"
                if is_other
                else "it goes on by itself; ask again in a moment",
                leader=address_in(self._known) if is_other else "",
            )
        return lease.fence

    def require_last(self) -> None:
        """Raises `NotLeading` where somebody else has the lease, or this one never had it."""
        if not self.may_return:
            self.fence()

    def look(self) -> None:
        """Renew the lease, or ask for it. Trouble is kept in `problem`, and is over with the next look."""
        try:
            self._renew(self._lease) if self._lease else self._ask()
            self.problem = ""
        except Fenced as lost:
            self._lose(lost)
        except SlipwayError as problem:
            self.problem = problem.problem
            self._gives_way_until = float("inf")
            log.warning("the lease could not be asked for: %s", problem.problem)

    def run(self, ending: threading.Event, *, every_seconds: float = EVERY_SECONDS) -> None:
        """Look again and again until the event is set; the lease stays, for what is still to be written."""
        while not ending.wait(every_seconds):
            self.look()

    def resign(self) -> None:
        """Give it back, so that the other one has not to wait for its end."""
        lease, self._lease = self._lease, None
        if lease is not None:
            with suppress(SlipwayError):
                self._leases.release(lease)

    def _ask(self) -> None:
        asked_at = self._monotonic()
        if self._gives_way(asked_at):
            return
        lease = self._leases.acquire(NAME, self._holder, seconds=self._seconds)
        if lease is None:
            self._read()
            return
        self._respect(lease)
        self._begin()
        # From before it was asked for: so it is over here before it is anywhere else.
        self._lease, self._until, self._known = lease, asked_at + self._seconds, self._holder
        log.info("%s has the lease under token %d", self._holder, lease.token)

    def _gives_way(self, now: float) -> bool:
        """Whether somebody else had it before the store was away, and has not had the time to renew it."""
        if now >= self._gives_way_until:
            return False
        self._read()
        if self._gives_way_until == float("inf"):
            self._gives_way_until = now + GIVES_WAY_SECONDS
        return bool(self._known)

    def _read(self) -> None:
        other = self._leases.lease(NAME)
        self._known = other.holder if other else ""

    def _renew(self, lease: Lease) -> None:
        asked_at = self._monotonic()
        self._lease = self._leases.renew(lease)
        self._until = asked_at + self._seconds

    def _lose(self, lost: Fenced) -> None:
        log.error("%s", lost.problem)
        self._lease, self.problem, self._known = None, lost.problem, ""
        with suppress(SlipwayError):
            self._read()

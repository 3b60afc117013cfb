"""Whose a lease is, decided from what is known of it and the ledger's clock. Pure.

Clocks jump. A lease that ends early, because the clock went forward, costs its holder a refused write, never
a second writer: tokens only grow. Of a clock that went back it is not known how much of the lease is over, so
all of it is counted again, once.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from serving.ledger.base import Fence, Lease


def asked_for(before: Lease | None, name: str, holder: str, *, seconds: float, now: datetime) -> Lease:
    """The lease after `holder` asked for it. It got it if the token is another one."""
    if before is None:
        return Lease(name, holder, 1, now, seconds)
    if not before.holder or now >= before.expires_at:
        return Lease(name, holder, before.token + 1, now, seconds)
    return replace(before, renewed_at=now) if now < before.renewed_at else before


def is_got(before: Lease | None, after: Lease) -> bool:
    """Whether whoever asked has it now."""
    return before is None or after.token != before.token


def is_held(lease: Lease, fence: Fence) -> bool:
    """Whether it is still the one that the fence came with. It may be over, as long as nobody else had it."""
    return lease.fence == fence and lease.holder != ""


def is_respected(before: Lease | None, lease: Lease) -> bool:
    """Whether a lease that was got elsewhere is the latest one that is known here."""
    return before is None or lease.token > before.token or before.fence == lease.fence

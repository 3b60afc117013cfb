"""The audit trail's chain: each entry's hash covers the entry and the hash before, so that no entry can be
changed, taken out or put in without all later hashes being others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from model_store.durable import canonical_json
from serving.ledger.base import BrokenChain, Head
from serving.ledger.rows import AuditRow

EMPTY = Head(0, "0" * 64)


def linked(entry: AuditRow, head: Head) -> AuditRow:
    """The entry as it follows `head`: with its number and hash."""
    numbered = replace(entry, number=head.number + 1)
    return replace(numbered, hash=_hash(numbered, head))


def verified(entries: Iterable[AuditRow], head: Head, known: Head | None) -> Head:
    """`head`, if it is the last of these entries, oldest first, and each follows the one before.

    `known` is a head of earlier, kept elsewhere. Raises `BrokenChain`.
    """
    last = EMPTY
    is_known = known is None or known == EMPTY
    for entry in entries:
        if entry != linked(entry, last):
            raise _broken(f"entry {last.number + 1} is not what was written")
        last = Head(entry.number, entry.hash)
        is_known = is_known or last == known
    if last != head:
        raise _broken(f"it ends with entry {last.number}, and {head.number} were written")
    if not is_known:
        raise _broken(f"it is another one than that of which entry {known and known.number} was kept")
    return last


def _hash(entry: AuditRow, before: Head) -> str:
    content = [
        before.hash,
        entry.number,
        entry.id,
        entry.at.isoformat(timespec="microseconds"),
        entry.who,
        entry.action,
        entry.model,
        entry.version,
        entry.release_id,
        entry.reason,
        entry.document,
    ]
    return hashlib.sha256(canonical_json(content)).hexdigest()


def _broken(what: str) -> BrokenChain:
    return BrokenChain(
        f"the audit trail was changed: {what}",
        remedy="find out who can write to the database, and compare with a backup",
    )

"""Takes over an installation of before there was a ledger: its files, read and left as they are, once.

Each file is taken over in one transaction that also notes that it was, so an import that was cut off goes on
where it was, and another one writes nothing. What is taken over moves nothing: rollbacks that were asked for
are noted as done, and routes keep their revision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from model_store.durable import digest_bytes
from serving.ledger.base import ImportedFile, Ledger
from serving.ledger.home_files import KINDS, WRONG, Kind, Torn
from serving.ledger.rows import AuditRow, Row

BY, ACT = "slipway", "import"


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of an import. `rows` by kind; `files` were taken over now, `known` before.

    `changed` files are others than when they were taken over: somebody still writes them, and what they wrote
    since is not in the ledger. `unreadable` files, with the reason, are tried again by the next import.
    `torn_lines` were left out, as they were by who read them.
    """

    rows: Mapping[str, int]
    files: int
    known: int
    changed: tuple[str, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    torn_lines: int = 0


def import_home(
    root: Path, ledger: Ledger, *, at: datetime, kinds: Iterable[Kind] = KINDS, only_new: bool = False
) -> Imported:
    """Take over the files under `root` (`Home.root`). May be repeated, also after it was killed.

    `only_new`: files that were taken over before are not read again, nor compared with what they were.
    """
    before = ledger.adopted()
    counted: Counter[str] = Counter()
    taken = torn = 0
    changed, unreadable, known = [], [], 0
    for kind in kinds:
        for path in sorted(root.glob(kind.pattern)):
            name = str(path.relative_to(root))
            if only_new and name in before:
                known += 1
                continue
            try:
                digest = _digest(kind.beside(path))
                if name in before:
                    known += 1
                    changed += [name] if before[name] != digest else []
                    continue
                rows, lost = _storable(kind.read(path))
                is_new = ledger.adopt(ImportedFile(name, digest), rows)
            except WRONG as problem:
                unreadable.append((name, _words(problem)))
                continue
            taken, torn = taken + is_new, torn + lost
            counted.update(row.kind_name() for row in rows if is_new)
    # Of an import that was cut off just before it, too.
    if taken or (known and not ledger.find(AuditRow, action=ACT, newest=1)):
        ledger.save(_note(taken + known, counted, at))
    return Imported(dict(counted), taken, known, tuple(changed), tuple(unreadable), torn)


def _note(files: int, counted: Mapping[str, int], at: datetime) -> AuditRow:
    rows = {kind: str(number) for kind, number in sorted(counted.items())}
    reason = f"took over {files} files of before there was a ledger"
    return AuditRow(at=at, who=BY, action=ACT, reason=reason, document=rows)


def _storable(rows: Iterable[Row]) -> tuple[list[Row], int]:
    """The rows, and how many lines were none."""
    found = list(rows)
    kept = [row for row in found if not isinstance(row, Torn)]
    return kept, len(found) - len(kept)


def _digest(paths: Iterable[Path]) -> str:
    return digest_bytes(b"\n".join(path.read_bytes() for path in paths if path.is_file()))


def _words(problem: Exception) -> str:
    return getattr(problem, "problem", None) or f"{type(problem).__name__}: {problem}"

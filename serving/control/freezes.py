"""When nothing is rolled out, and for whom: windows of the calendar, of a model's spec, and ad-hoc ones.

`<root>/calendar.yaml` is written by people and holds for every model: `freezes:` with the windows of
`model_store.release_spec.Freeze`. What somebody asked for, who lifted it and which release may pass is in
the ledger. A rollback is never frozen. A calendar that cannot be read freezes everything: whoever wrote it
meant to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from model_store.errors import Permanent
from model_store.release_spec import Freeze, InvalidSpec, Section
from model_store.release_spec.load import read_section
from serving.control.audit import AuditEntry, to_row
from serving.ledger import rows
from serving.ledger.base import Change, Once, Rows, StaleGeneration

CALENDAR = "calendar.yaml"
_ID = re.compile(r"[0-9a-f]{12}")


class UnknownFreeze(Permanent):
    """No freeze has this id."""


class AlreadyLifted(Permanent):
    """Somebody else ended it. The words say who and when."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """One freeze in force. `model` None: all of them; `until` None: until somebody lifts it.

    `source` is `calendar`, `spec` or `person`; only a person's can be lifted, by its `id`.
    """

    id: str
    source: str
    model: str | None
    reason: str
    by: str
    since: datetime | None
    until: datetime | None
    lifted_by: str = ""
    lifted_at: datetime | None = None

    @property
    def words(self) -> str:
        until = f"until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else "until somebody lifts it"
        return f"frozen {until}: {self.reason}" + (f" ({self.by})" if self.by else "")


@dataclass(frozen=True, slots=True)
class Override:
    """Who let one release pass, and why."""

    release_id: str
    by: str
    reason: str
    at: datetime


class Calendar(Section):
    """`calendar.yaml`."""

    freezes: tuple[Freeze, ...] = ()


class Freezes:
    """The calendar in the folder `root`, and what is among `rows`."""

    def __init__(self, rows: Rows, root: Path) -> None:
        self._rows, self.root = rows, root

    def in_force(self, model: str | None, windows: Sequence[Freeze] = (), *, at: datetime) -> list[Frozen]:
        """Those that hold `model` now (None: of all models), `windows` being its spec's."""
        found = [*self.of_calendar(at), *of_windows(windows, "spec", model, at), *self.asked_for(at=at)]
        return [one for one in found if model is None or one.model in (None, model)]

    def holding(self, release_id: str, windows: Sequence[Freeze], *, at: datetime) -> Frozen | None:
        """What keeps this release from rolling out now: the freeze that lasts longest, unless overridden."""
        model = release_id.rpartition("-v")[0]
        found = self.in_force(model, windows, at=at)
        return longest(found, at=at) if found and not self.override_of(release_id) else None

    def asked_for(self, *, at: datetime) -> list[Frozen]:
        """People's freezes that are in force, the oldest first."""
        found = map(_frozen, self._rows.find(rows.FreezeRow, lifted_at=None))
        now = [one for one in found if one.until is None or one.until > at]
        return sorted(now, key=lambda one: (one.since or at, one.id))

    def add(
        self,
        model: str | None,
        *,
        by: str,
        reason: str,
        until: datetime | None,
        at: datetime,
        entry: AuditEntry | None = None,
    ) -> Frozen:
        """Freeze from now on; `entry` is written with it. Raises `Permanent` when `until` is not in the
        future."""
        if until is not None and until <= at:
            raise Permanent(
                f"{until:%Y-%m-%d %H:%M} UTC is over", remedy="give a time in the future, or none"
            )
        made = rows.FreezeRow(id=uuid4().hex[:12], model=model, by=by, reason=reason, since=at, until=until)
        self._rows.save(made, *_with(entry))
        return _frozen(made)

    def find(self, freeze_id: str) -> Frozen:
        """One that somebody asked for. Raises `AlreadyLifted` or `UnknownFreeze`."""
        return _frozen(self._standing(freeze_id))

    def lift(self, freeze_id: str, *, by: str, at: datetime, entry: AuditEntry | None = None) -> Frozen:
        """End one that somebody asked for; `entry` is written with it. Of two who lift it at once, one gets
        `AlreadyLifted`."""
        lifted = replace(self._standing(freeze_id), lifted_by=by, lifted_at=at)
        try:
            self._rows.save(lifted, *_with(entry))
        except StaleGeneration:
            return self.find(freeze_id)
        return _frozen(lifted)

    def override(
        self, release_id: str, *, by: str, reason: str, at: datetime, entry: AuditEntry | None = None
    ) -> Override:
        """Let this release pass, now and in every freeze to come; `entry` is written with it."""
        made = rows.OverrideRow(release_id=release_id, by=by, reason=reason, at=at)
        self._rows.save(Once(made), *_with(entry))
        return self.override_of(release_id) or Override(release_id, by, reason, at)

    def override_of(self, release_id: str) -> Override | None:
        return next(iter(self.overrides(release_id)), None)

    def overrides(self, release_id: str | None = None) -> list[Override]:
        """Of one release, or all there are."""
        wanted: dict[str, Any] = {"release_id": release_id} if release_id is not None else {}
        found = self._rows.find(rows.OverrideRow, **wanted)
        return [Override(one.release_id, one.by, one.reason, one.at) for one in found]

    def _standing(self, freeze_id: str) -> rows.FreezeRow:
        found = self._rows.find(rows.FreezeRow, id=freeze_id) if _ID.fullmatch(freeze_id) else []
        if not found:
            raise UnknownFreeze(
                f"there is no freeze {freeze_id[:40]!r}", remedy="look at the list of freezes"
            )
        if lifted_at := found[0].lifted_at:
            raise AlreadyLifted(
                f"{found[0].lifted_by} lifted it already ({lifted_at:%Y-%m-%d %H:%M:%S} UTC)",
                remedy="nothing is left to do",
            )
        return found[0]

    def of_calendar(self, at: datetime) -> list[Frozen]:
        """Its windows that are in force."""
        path = self.root / CALENDAR
        try:
            stat = path.stat()
            calendar = _calendar(path, stat.st_mtime_ns, stat.st_size)
            return of_windows(calendar.freezes, "calendar", None, at)
        except FileNotFoundError:
            return []
        except InvalidSpec as problem:
            wrong = str(problem.complaints[0])
        except Exception as problem:
            # Whatever it is: an error here would take every page away, and the freeze with them.
            wrong = str(problem) or type(problem).__name__
        unreadable = f"{CALENDAR} cannot be read: {wrong}"
        return [Frozen("calendar", "calendar", None, unreadable, "", None, None)]


def longest(found: Sequence[Frozen], *, at: datetime) -> Frozen:
    """Of several in force, the one that is told."""
    return max(found, key=lambda one: (one.until is None, one.until or at))


def load_calendar(path: Path) -> Calendar:
    """Raises `InvalidSpec` with every wrong line."""
    return read_section(path, Calendar)


@lru_cache(maxsize=8)
def _calendar(path: Path, changed_ns: int, size: int) -> Calendar:
    return load_calendar(path)


def of_windows(windows: Sequence[Freeze], source: str, model: str | None, at: datetime) -> list[Frozen]:
    return [
        Frozen(f"{source}-{number}", source, model, window.reason, "", None, until)
        for number, window in enumerate(windows)
        if (until := window.until(at))
    ]


def _frozen(row: rows.FreezeRow) -> Frozen:
    shared = ("id", "model", "reason", "by", "since", "until", "lifted_by", "lifted_at")
    return Frozen(source="person", **{name: getattr(row, name) for name in shared})


def _with(entry: AuditEntry | None) -> list[Change]:
    return [to_row(entry)] if entry else []

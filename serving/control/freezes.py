"""When nothing is rolled out, and for whom: windows of the calendar, of a model's spec, and ad-hoc ones.

`<root>/calendar.yaml` is written by people and holds for every model: `freezes:` with the windows of
`model_store.release_spec.Freeze`. `<root>/<id>.json` is a freeze somebody asked for, moved to `lifted/` when
somebody ends it; `overrides/<release>.json` lets one release pass. A rollback is never frozen. A calendar
that cannot be read freezes everything: whoever wrote it meant to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

import orjson
from pydantic import ValidationError

from model_store.durable import staging, take_place, write_file
from model_store.errors import Permanent
from model_store.release_spec import Freeze, InvalidSpec, Section
from model_store.release_spec.document import read_document
from model_store.release_spec.pydantic_complaints import complaints

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
    """The files under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def in_force(self, model: str | None, windows: Sequence[Freeze] = (), *, at: datetime) -> list[Frozen]:
        """Those that hold `model` now (None: of all models), `windows` being its spec's."""
        found = [*self._of_calendar(at), *_of_windows(windows, "spec", model, at), *self.asked_for(at=at)]
        return [one for one in found if model is None or one.model in (None, model)]

    def holding(self, release_id: str, windows: Sequence[Freeze], *, at: datetime) -> Frozen | None:
        """What keeps this release from rolling out now: the freeze that lasts longest, unless overridden."""
        model = release_id.rpartition("-v")[0]
        found = self.in_force(model, windows, at=at)
        if not found or self.override_of(release_id):
            return None
        return max(found, key=lambda one: (one.until is None, one.until or at))

    def asked_for(self, *, at: datetime) -> list[Frozen]:
        """People's freezes that are in force, the oldest first."""
        found = (_read(path) for path in self.root.glob("*.json"))
        now = [one for one in found if one and (one.until is None or one.until > at)]
        return sorted(now, key=lambda one: (one.since or at, one.id))

    def add(self, model: str | None, *, by: str, reason: str, until: datetime | None, at: datetime) -> Frozen:
        """Freeze from now on. Raises `Permanent` when `until` is not in the future."""
        if until is not None and until <= at:
            raise Permanent(
                f"{until:%Y-%m-%d %H:%M} UTC is over", remedy="give a time in the future, or none"
            )
        frozen = Frozen(uuid4().hex[:12], "person", model, reason, by, at, until)
        write_file(self.root / f"{frozen.id}.json", orjson.dumps(asdict(frozen)))
        return frozen

    def find(self, freeze_id: str) -> Frozen:
        """One that somebody asked for. Raises `AlreadyLifted` or `UnknownFreeze`."""
        if _ID.fullmatch(freeze_id) and (found := _read(self.root / f"{freeze_id}.json")):
            return found
        lifted = _read(self.root / "lifted" / f"{freeze_id}.json") if _ID.fullmatch(freeze_id) else None
        if lifted and lifted.lifted_at:
            raise AlreadyLifted(
                f"{lifted.lifted_by} lifted it already ({lifted.lifted_at:%Y-%m-%d %H:%M:%S} UTC)",
                remedy="nothing is left to do",
            )
        raise UnknownFreeze(f"there is no freeze {freeze_id[:40]!r}", remedy="look at the list of freezes")

    def lift(self, freeze_id: str, *, by: str, at: datetime) -> Frozen:
        """End one that somebody asked for. Of two who lift it at once, one gets `AlreadyLifted`."""
        lifted = replace(self.find(freeze_id), lifted_by=by, lifted_at=at)
        aside = self.root / "lifted" / f"{freeze_id}.json"
        with staging(aside.parent) as folder:
            # Before the freeze is moved: a full disk must not lift it and forget by whom.
            write_file(folder / aside.name, orjson.dumps(asdict(lifted)))
            try:
                # Only one of two can move it.
                (self.root / aside.name).rename(aside)
            except FileNotFoundError:
                return self.find(freeze_id)
            take_place(folder / aside.name, aside)
        return lifted

    def override(self, release_id: str, *, by: str, reason: str, at: datetime) -> Override:
        """Let this release pass, now and in every freeze to come."""
        made = Override(release_id, by, reason, at)
        write_file(self._override_path(release_id), orjson.dumps(asdict(made)))
        return made

    def override_of(self, release_id: str) -> Override | None:
        path = self._override_path(release_id)
        if not path.exists():
            return None
        saved = orjson.loads(path.read_bytes())
        return Override(**{**saved, "at": datetime.fromisoformat(saved["at"])})

    def _override_path(self, release_id: str) -> Path:
        return self.root / "overrides" / f"{release_id}.json"

    def _of_calendar(self, at: datetime) -> list[Frozen]:
        path = self.root / CALENDAR
        try:
            stat = path.stat()
            calendar = _calendar(path, stat.st_mtime_ns, stat.st_size)
            return _of_windows(calendar.freezes, "calendar", None, at)
        except FileNotFoundError:
            return []
        except InvalidSpec as problem:
            wrong = str(problem.complaints[0])
        except Exception as problem:
            # Whatever it is: an error here would take every page away, and the freeze with them.
            wrong = str(problem) or type(problem).__name__
        unreadable = f"{CALENDAR} cannot be read: {wrong}"
        return [Frozen("calendar", "calendar", None, unreadable, "", None, None)]


def load_calendar(path: Path) -> Calendar:
    """Raises `InvalidSpec` with every wrong line."""
    document = read_document(path)
    try:
        calendar = Calendar.model_validate(document.data, strict=True)
    except ValidationError as error:
        found = complaints(error.errors(include_url=False), document, Calendar)
        raise InvalidSpec(path, [*document.complaints, *found]) from error
    if document.complaints:
        raise InvalidSpec(path, document.complaints)
    return calendar


@lru_cache(maxsize=8)
def _calendar(path: Path, changed_ns: int, size: int) -> Calendar:
    return load_calendar(path)


def _of_windows(windows: Sequence[Freeze], source: str, model: str | None, at: datetime) -> list[Frozen]:
    return [
        Frozen(f"{source}-{number}", source, model, window.reason, "", None, until)
        for number, window in enumerate(windows)
        if (until := window.until(at))
    ]


def _read(path: Path) -> Frozen | None:
    try:
        saved = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    times = {name: saved[name] and datetime.fromisoformat(saved[name]) for name in _TIMES}
    return Frozen(**{**saved, **times})


_TIMES = ("since", "until", "lifted_at")

"""What happened in production, the newest first: what people did, and what Slipway did by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from serving.audit import AuditTrail
from serving.audit import Entry as Act
from serving.rollout.control import BY_PEOPLE
from slipway_airflow.books.index import Shelf
from slipway_airflow.books.shelf import Entry, Moved, WentBack
from slipway_airflow.books.views import History, Moment, page_of

BY_ITSELF = "Slipway"
_ENDS = {"promoted": "promoted", "rolled back": "rolled back", "done": "finished", "started": "started"}


@dataclass(frozen=True, slots=True)
class Filter:
    """What part of the history is wanted; an empty or missing value takes everything."""

    model: str = ""
    who: str = ""
    action: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, moment: Moment) -> bool:
        return (
            (not self.model or moment.model == self.model)
            and (not self.who or moment.who == self.who)
            and (not self.action or moment.action == self.action)
            and (self.since is None or moment.at >= self.since)
            and (self.until is None or moment.at <= self.until)
        )


class People:
    """The audit trail, read again only when it grew. Safe for many threads."""

    def __init__(self, root: Path) -> None:
        self._trail = AuditTrail(root)
        self._guarded = threading.Lock()
        self._stamp: tuple[tuple[str, int], ...] | None = None
        self._moments: tuple[Moment, ...] = ()

    def moments(self) -> tuple[Moment, ...]:
        """Everything that people did, the newest first."""
        with self._guarded:
            stamp = tuple(
                sorted((path.name, path.stat().st_size) for path in self._trail.root.glob("*.jsonl"))
            )
            if stamp != self._stamp:
                self._moments = tuple(map(_of_entry, self._trail.entries()))
                self._stamp = stamp
            return self._moments


def of_shelf(shelf: Shelf) -> tuple[Moment, ...]:
    """What happened to the traffic of one model, the newest first: without the single shifts of a rollout."""
    found = [_with_asker(e, m) for e in shelf.entries if e.moved for m in of_rollout(e.moved) if _is_news(m)]
    found += map(of_rollback, shelf.rollbacks)
    found += [
        Moment(e.changed_at, BY_ITSELF, "blocked", e.model, e.version, e.id, e.why)
        for e in shelf.entries
        if e.outcome and not e.moved and e.outcome.status == "blocked"
    ]
    return tuple(sorted(found, key=lambda moment: moment.at, reverse=True))


def _is_news(moment: Moment) -> bool:
    """Not every shift of a rollout; and what people did to it the audit trail tells."""
    return moment.action != "shift" and moment.action not in BY_PEOPLE


def _with_asker(entry: Entry, moment: Moment) -> Moment:
    """What Slipway did by itself, it did because somebody asked for the release."""
    if entry.asked is None:
        return moment
    reason = entry.asked.reason if moment.action in ("started", "promoted") else moment.reason
    return replace(moment, reason=reason, detail=f"asked for by {entry.asked.by}")


def of_rollout(moved: Moved) -> Iterator[Moment]:
    """Each event of a rollout, oldest first."""
    for at, kind, detail, weight in moved.events:
        words = f"{weight:g} % to v{moved.version}" if kind == "shift" else ""
        reason = detail if kind != "promoted" else ""
        action = _ENDS.get(kind, kind)
        yield Moment(at, BY_ITSELF, action, moved.model, moved.version, moved.id, reason, words)


def of_rollback(rollback: WentBack) -> Moment:
    """A rollback that was asked for through Airflow's form or an alert."""
    incident = f"incident {rollback.incident}" if rollback.incident else ""
    detail = ", ".join(filter(None, [f"back to v{rollback.returns}", incident]))
    who = rollback.by
    return Moment(
        rollback.at, who, "rollback", rollback.model, rollback.leaves, None, rollback.reason, detail
    )


def merged(shelves: Iterable[Shelf], people: Iterable[Moment]) -> list[Moment]:
    """All of it, the newest first. What somebody did is not told twice: by the act, and by its record."""
    acts = list(people)
    known = {
        (act.model, act.action, act.who, int(act.at.timestamp())) for act in acts if act.action == "rollback"
    }
    found = acts + [moment for shelf in shelves for moment in of_shelf(shelf) if not _is_told(moment, known)]
    return sorted(found, key=lambda moment: moment.at, reverse=True)


def history(moments: Iterable[Moment], wanted: Filter, *, page: int = 1, size: int = 50) -> History:
    """One page of what the filter takes."""
    matching = [moment for moment in moments if wanted.takes(moment)]
    page, pages = page_of(len(matching), size=size, page=page)
    return History(tuple(matching[(page - 1) * size : page * size]), len(matching), page, pages)


def _is_told(moment: Moment, known: set[tuple[str, str, str, int]]) -> bool:
    """The act is written a moment before the run it starts."""
    if moment.action != "rollback":
        return False
    at = int(moment.at.timestamp())
    return any((moment.model, "rollback", moment.who, at - late) in known for late in range(30))


def _of_entry(entry: Act) -> Moment:
    detail = ", ".join(f"{name}: {value}" for name, value in entry.detail.items())
    return Moment(
        entry.at,
        entry.who,
        entry.action,
        entry.model or "",
        entry.version,
        entry.release_id,
        entry.reason,
        detail,
    )

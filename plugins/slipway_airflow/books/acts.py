"""What happened in production, the newest first: what people did, and what Slipway did by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from serving.audit import AuditTrail
from serving.audit import Entry as Act
from serving.rollout.control import BY_PEOPLE
from slipway_airflow.books.index import Shelf
from slipway_airflow.books.shelf import Entry, Moved, WentBack
from slipway_airflow.books.views import History, Moment, page_of
from slipway_airflow.releases import words_for_another

_Mark = tuple[str, str, int]

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
    found += [moment for entry in shelf.entries for moment in of_bundles(entry)]
    found += map(of_rollback, shelf.rollbacks)
    found += [
        Moment(e.changed_at, BY_ITSELF, "blocked", e.model, e.version, e.id, e.why)
        for e in shelf.entries
        if e.outcome and not e.moved and e.outcome.status == "blocked"
    ]
    return tuple(sorted(found, key=lambda moment: moment.at, reverse=True))


def of_bundles(entry: Entry) -> Iterator[Moment]:
    """Each time a run that was repeated built something else, although people are asked about bundles."""
    asked = entry.asked
    if asked is None or not asked.approvals:
        return
    for (old, _), (new, at) in pairwise(asked.bundles):
        why = f"what was answered about bundle {old} does not count for it"
        what = f"bundle {new} in place of {old}"
        yield Moment(at, BY_ITSELF, "built again", entry.model, entry.version, entry.id, why, what)


def asked_again(entry: Entry, bundle_id: str) -> str:
    """Why people are asked although they were asked before; empty if they were not."""
    built = [name for name, _ in entry.asked.bundles] if entry.asked else []
    return words_for_another(bundle_id, built) if bundle_id else ""


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


class Chronicle:
    """What happened to all models, merged; told anew only for models whose files changed."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[Shelf, tuple[Moment, ...]]] = {}
        self._of: tuple[Mapping[str, Shelf], tuple[Moment, ...]] | None = None
        self._merged: list[Moment] = []

    def moments(self, shelves: Mapping[str, Shelf], people: tuple[Moment, ...]) -> list[Moment]:
        """All of it, the newest first. Both arguments are other objects when they say something else.

        What somebody did is not told twice: by the act, and by the record of what came of it.
        """
        if self._of is None or self._of[0] is not shelves or self._of[1] is not people:
            self._merged = sorted(self._every(shelves, people), key=lambda moment: moment.at, reverse=True)
            self._of = (shelves, people)
        return self._merged

    def _every(self, shelves: Mapping[str, Shelf], people: tuple[Moment, ...]) -> list[Moment]:
        known = {_mark(act, 0) for act in people if act.action == "rollback"}
        for name, shelf in shelves.items():
            if (told := self._told.get(name)) is None or told[0] is not shelf:
                self._told[name] = (shelf, of_shelf(shelf))
        found = [moment for _, moments in self._told.values() for moment in moments]
        return [*people, *(moment for moment in found if not _is_told(moment, known))]


def history(moments: Iterable[Moment], wanted: Filter, *, page: int = 1, size: int = 50) -> History:
    """One page of what the filter takes."""
    matching = [moment for moment in moments if wanted.takes(moment)]
    page, pages = page_of(len(matching), size=size, page=page)
    return History(tuple(matching[(page - 1) * size : page * size]), len(matching), page, pages)


def _is_told(moment: Moment, known: set[_Mark]) -> bool:
    """The act is written a moment before the run it starts."""
    return moment.action == "rollback" and any(_mark(moment, late) in known for late in range(30))


def _mark(moment: Moment, seconds_late: int) -> _Mark:
    return moment.model, moment.who, int(moment.at.timestamp()) - seconds_late


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

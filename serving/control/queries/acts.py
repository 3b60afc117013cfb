"""What happened in production, the newest first: what people did, and what Slipway did by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

from serving.control.audit import AuditTrail
from serving.control.audit import Entry as Act
from serving.control.freezing import FREEZE, PAUSED_DAG, held_by_itself
from serving.control.queries.index import Shelf
from serving.control.queries.shelf import Entry, Moved, WentBack
from serving.control.queries.views import History, Moment, page_of
from serving.control.releases import words_for_another
from serving.control.rollout.control import BY_PEOPLE, PAUSED, RESUMED

_Mark = tuple[str, str, int]
_Told = tuple[Moment, ...]

BY_ITSELF = "Slipway"
_ENDS = {"promoted": "promoted", "rolled back": "rolled back", "done": "finished", "started": "started"}

# What holds rollouts by itself, and what is said of it.
_HELD = {
    (FREEZE, PAUSED): "frozen",
    (FREEZE, RESUMED): "let go",
    (PAUSED_DAG, PAUSED): "held",
    (PAUSED_DAG, RESUMED): "let go",
}


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
    """Not every shift of a rollout."""
    return moment.action != "shift"


def _with_asker(entry: Entry, moment: Moment) -> Moment:
    """What Slipway did by itself, it did because somebody asked for the release; or for a freeze."""
    if entry.asked is None or moment.action in _HELD.values():
        return moment
    reason = entry.asked.reason if moment.action in ("started", "promoted") else moment.reason
    return replace(moment, reason=reason, detail=f"asked for by {entry.asked.by}")


def of_rollout(moved: Moved) -> Iterator[Moment]:
    """Each event of a rollout, oldest first: without what people did to it, which the audit trail tells."""
    for at, kind, detail, weight in moved.events:
        if kind in BY_PEOPLE:
            if held := held_by_itself(detail):
                what = _HELD.get((held[0], kind), kind)
                yield Moment(at, BY_ITSELF, what, moved.model, moved.version, moved.id, held[1])
            continue
        words = f"{weight:g} % to v{moved.version}" if kind == "shift" else ""
        reason = detail if kind not in ("promoted", "started") else ""
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


class Moments:
    """What happened to all models, the newest first. What is asked of it again and again is kept."""

    def __init__(self, newest: Sequence[Moment] = ()) -> None:
        self.newest = newest
        self._people: list[str] | None = None
        self._actions: list[str] | None = None

    def history(self, wanted: Filter, *, page: int = 1, size: int = 50) -> History:
        """One page of what the filter takes."""
        matching = self._matching(wanted)
        page, pages = page_of(len(matching), size=size, page=page)
        return History(tuple(matching[(page - 1) * size : page * size]), len(matching), page, pages)

    def people(self) -> list[str]:
        """Who ever did anything."""
        if self._people is None:
            self._people = sorted({moment.who for moment in self.newest})
        return self._people

    def actions(self) -> list[str]:
        """What was ever done."""
        if self._actions is None:
            self._actions = sorted({moment.action for moment in self.newest})
        return self._actions

    def _matching(self, wanted: Filter) -> Sequence[Moment]:
        if wanted == Filter():
            return self.newest
        # Most ask about one model, and one comparison costs less than a call.
        of_model = [m for m in self.newest if m.model == wanted.model] if wanted.model else self.newest
        return [moment for moment in of_model if wanted.takes(moment)]


class Chronicle:
    """Merges what happened; told anew, and put in place, only of models whose files changed."""

    def __init__(self, breathe: Callable[[], None] = lambda: None) -> None:
        self._breathe = breathe
        self._told: dict[str, tuple[Shelf, _Told]] = {}
        self._known: frozenset[_Mark] = frozenset()
        self._of: tuple[Mapping[str, Shelf], tuple[Moment, ...]] = ({}, ())
        self._moments = Moments()

    def moments(self, shelves: Mapping[str, Shelf], people: tuple[Moment, ...]) -> Moments:
        """All of it. Both arguments are other objects when they say something else.

        What somebody did is not told twice: by the act, and by the record of what came of it.
        """
        if self._of[0] is not shelves or self._of[1] is not people:
            gone, new = self._differences(shelves, people)
            self._of = (shelves, people)
            self._breathe()
            kept = [moment for moment in self._moments.newest if id(moment) not in gone]
            # Two runs that are in order already: little is left to sort.
            self._moments = Moments(sorted([*kept, *new], key=attrgetter("at"), reverse=True))
        return self._moments

    def _differences(
        self, shelves: Mapping[str, Shelf], people: tuple[Moment, ...]
    ) -> tuple[set[int], list[Moment]]:
        """What is not told any more (by identity), and what is new, the newest first."""
        before = self._of[1]
        gone, new = set(map(id, before)) - set(map(id, people)), []
        known_before = set(map(id, before))
        new += [moment for moment in people if id(moment) not in known_before]
        known = frozenset(_mark(act, 0) for act in people if act.action == "rollback")
        for name, shelf in shelves.items():
            told = self._told.get(name)
            if told and told[0] is shelf and (known == self._known or not shelf.rollbacks):
                continue
            gone |= set(map(id, told[1])) if told else set()
            moments = tuple(moment for moment in of_shelf(shelf) if not _is_told(moment, known))
            self._told[name] = (shelf, moments)
            new += moments
        self._known = known
        return gone, sorted(new, key=attrgetter("at"), reverse=True)


def _is_told(moment: Moment, known: frozenset[_Mark]) -> bool:
    """The act is written a moment before the run it starts."""
    return moment.action == "rollback" and any(_mark(moment, late) in known for late in range(30))


def _mark(moment: Moment, seconds_late: int) -> _Mark:
    return moment.model, moment.who, int(moment.at.timestamp()) - seconds_late


def _of_entry(entry: Act) -> Moment:
    detail = ", ".join(filter(None, (_in_words(*each) for each in entry.detail.items())))
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


def _in_words(name: str, value: str) -> str:
    """Part of an entry's detail as people read it; what only the trail has to keep comes to nothing."""
    match name:
        case "via" | "run_id" | "task" | "account" | "bundle":
            return ""
        case "leaves":
            return f"from v{value}"
        case "until":
            return value if value.startswith("until") else f"until {_in_utc(value)}"
    return f"{name}: {value}"


def _in_utc(moment: str) -> str:
    try:
        return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return moment

"""What happened in production, the newest first: what people did, and what Slipway did by itself; also as
a file for spreadsheets and programs."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from operator import attrgetter

from model_store.errors import Retryable
from serving.control.audit import AuditEntry, of_row
from serving.control.freeze_enforcement import FREEZE, PAUSED_DAG, automatic_hold
from serving.control.queries.index import ModelSnapshot
from serving.control.queries.snapshots import ReleaseEntry, RollbackSnapshot, RolloutSnapshot
from serving.control.queries.views import History, HistoryEvent, page_of
from serving.control.releases import words_for_another
from serving.control.rollout.control import BY_PEOPLE, PAUSED, RESUMED
from serving.ledger.base import Rows
from serving.ledger.rows import AuditRow

_Mark = tuple[str, str, int]
_Events = tuple[HistoryEvent, ...]

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
class HistoryFilter:
    """What part of the history is wanted; an empty or missing value takes everything."""

    model: str = ""
    who: str = ""
    action: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, moment: HistoryEvent) -> bool:
        return (
            (not self.model or moment.model == self.model)
            and (not self.who or moment.who == self.who)
            and (not self.action or moment.action == self.action)
            and (self.since is None or moment.at >= self.since)
            and (self.until is None or moment.at <= self.until)
        )


class AuditReader:
    """The audit trail, of which only what was added is asked for again. Safe for many threads."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._guarded = threading.Lock()
        self._last: AuditRow | None = None
        self._moments: tuple[HistoryEvent, ...] = ()

    def moments(self) -> tuple[HistoryEvent, ...]:
        """Everything that people did, the newest first; as of before, while the controller is away."""
        with self._guarded, suppress(Retryable):
            if self._last and not self._is_there(self._last):
                # The ledger was restored from a backup.
                self._last, self._moments = None, ()
            if new := self._rows.find(AuditRow, after=self._last.number if self._last else 0):
                self._last = max(new, key=attrgetter("number"))
                told = [_of_entry(of_row(row)) for row in reversed(new)]
                self._moments = tuple(sorted([*told, *self._moments], key=attrgetter("at"), reverse=True))
        return self._moments

    def _is_there(self, entry: AuditRow) -> bool:
        return [one.hash for one in self._rows.find(AuditRow, number=entry.number)] == [entry.hash]


def of_snapshot(snapshot: ModelSnapshot) -> tuple[HistoryEvent, ...]:
    """What happened to the traffic of one model, the newest first: without the single shifts of a rollout."""
    found = [
        _with_asker(e, m) for e in snapshot.entries if e.rollout for m in of_rollout(e.rollout) if _is_news(m)
    ]
    found += [moment for entry in snapshot.entries for moment in of_bundles(entry)]
    found += map(of_rollback, snapshot.rollbacks)
    found += [
        HistoryEvent(e.changed_at, BY_ITSELF, "blocked", e.model, e.version, e.id, e.why)
        for e in snapshot.entries
        if e.outcome and not e.rollout and e.outcome.status == "blocked"
    ]
    return tuple(sorted(found, key=lambda moment: moment.at, reverse=True))


def of_bundles(entry: ReleaseEntry) -> Iterator[HistoryEvent]:
    """Each time a run that was repeated built something else, although people are asked about bundles."""
    request = entry.request
    if request is None or not request.approvals:
        return
    for (old, _), (new, at) in pairwise(request.bundles):
        why = f"what was answered about bundle {old} does not count for it"
        what = f"bundle {new} in place of {old}"
        yield HistoryEvent(at, BY_ITSELF, "built again", entry.model, entry.version, entry.id, why, what)


def asked_again(entry: ReleaseEntry, bundle_id: str) -> str:
    """Why people are asked although they were asked before; empty if they were not."""
    built = [name for name, _ in entry.request.bundles] if entry.request else []
    return words_for_another(bundle_id, built) if bundle_id else ""


def _is_news(moment: HistoryEvent) -> bool:
    """Not every shift of a rollout."""
    return moment.action != "shift"


def _with_asker(entry: ReleaseEntry, moment: HistoryEvent) -> HistoryEvent:
    """What Slipway did by itself, it did because somebody asked for the release; or for a freeze."""
    if entry.request is None or moment.action in _HELD.values():
        return moment
    reason = entry.request.reason if moment.action in ("started", "promoted") else moment.reason
    return replace(moment, reason=reason, detail=f"asked for by {entry.request.by}")


def of_rollout(rollout: RolloutSnapshot) -> Iterator[HistoryEvent]:
    """Each event of a rollout, oldest first: without what people did to it, which the audit trail tells."""
    for at, kind, detail, weight in rollout.events:
        if kind in BY_PEOPLE:
            if held := automatic_hold(detail):
                what = _HELD.get((held[0], kind), kind)
                yield HistoryEvent(at, BY_ITSELF, what, rollout.model, rollout.version, rollout.id, held[1])
            continue
        words = f"{weight:g} % to v{rollout.version}" if kind == "shift" else ""
        reason = detail if kind not in ("promoted", "started") else ""
        action = _ENDS.get(kind, kind)
        yield HistoryEvent(at, BY_ITSELF, action, rollout.model, rollout.version, rollout.id, reason, words)


def of_rollback(rollback: RollbackSnapshot) -> HistoryEvent:
    """A rollback that was asked for through Airflow's form or an alert."""
    incident = f"incident {rollback.incident}" if rollback.incident else ""
    detail = ", ".join(filter(None, [f"back to v{rollback.returns}", incident]))
    who = rollback.by
    return HistoryEvent(
        rollback.at, who, "rollback", rollback.model, rollback.leaves, None, rollback.reason, detail
    )


class Activity:
    """What happened to all models, the newest first. What is asked of it again and again is kept."""

    def __init__(self, newest: Sequence[HistoryEvent] = ()) -> None:
        self.newest = newest
        self._people: list[str] | None = None
        self._actions: list[str] | None = None

    def history(self, wanted: HistoryFilter, *, page: int = 1, size: int = 50) -> History:
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

    def _matching(self, wanted: HistoryFilter) -> Sequence[HistoryEvent]:
        if wanted == HistoryFilter():
            return self.newest
        # Most ask about one model, and one comparison costs less than a call.
        of_model = [m for m in self.newest if m.model == wanted.model] if wanted.model else self.newest
        return [moment for moment in of_model if wanted.takes(moment)]


class ActivityLog:
    """Merges what happened; told anew, and put in place, only of models whose files changed."""

    def __init__(self, breathe: Callable[[], None] = lambda: None) -> None:
        self._breathe = breathe
        self._told: dict[str, tuple[ModelSnapshot, _Events]] = {}
        self._known: frozenset[_Mark] = frozenset()
        self._of: tuple[Mapping[str, ModelSnapshot], tuple[HistoryEvent, ...]] = ({}, ())
        self._moments = Activity()

    def moments(self, by_model: Mapping[str, ModelSnapshot], people: tuple[HistoryEvent, ...]) -> Activity:
        """All of it. Both arguments are other objects when they say something else.

        What somebody did is not told twice: by the act, and by the record of what came of it.
        """
        if self._of[0] is not by_model or self._of[1] is not people:
            gone, new = self._differences(by_model, people)
            self._of = (by_model, people)
            self._breathe()
            kept = [moment for moment in self._moments.newest if id(moment) not in gone]
            # Two runs that are in order already: little is left to sort.
            self._moments = Activity(sorted([*kept, *new], key=attrgetter("at"), reverse=True))
        return self._moments

    def _differences(
        self, by_model: Mapping[str, ModelSnapshot], people: tuple[HistoryEvent, ...]
    ) -> tuple[set[int], list[HistoryEvent]]:
        """What is not told any more (by identity), and what is new, the newest first."""
        before = self._of[1]
        gone, new = set(map(id, before)) - set(map(id, people)), []
        known_before = set(map(id, before))
        new += [moment for moment in people if id(moment) not in known_before]
        known = frozenset(_mark(act, 0) for act in people if act.action == "rollback")
        for name, snapshot in by_model.items():
            told = self._told.get(name)
            if told and told[0] is snapshot and (known == self._known or not snapshot.rollbacks):
                continue
            gone |= set(map(id, told[1])) if told else set()
            moments = tuple(moment for moment in of_snapshot(snapshot) if not _is_in_audit(moment, known))
            self._told[name] = (snapshot, moments)
            new += moments
        self._known = known
        return gone, sorted(new, key=attrgetter("at"), reverse=True)


def _is_in_audit(moment: HistoryEvent, known: frozenset[_Mark]) -> bool:
    """The act is written a moment before the run it starts."""
    return moment.action == "rollback" and any(_mark(moment, late) in known for late in range(30))


def _mark(moment: HistoryEvent, seconds_late: int) -> _Mark:
    return moment.model, moment.who, int(moment.at.timestamp()) - seconds_late


def _of_entry(entry: AuditEntry) -> HistoryEvent:
    detail = ", ".join(filter(None, (_in_words(*each) for each in entry.detail.items())))
    return HistoryEvent(
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


COLUMNS = ("at", "who", "action", "model", "version", "release_id", "reason", "detail")
# What a spreadsheet takes for a formula at the start of a cell (OWASP: CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def csv_lines(moments: Iterable[HistoryEvent]) -> Iterator[str]:
    """A header and a line for each moment. Text that a spreadsheet would compute is kept as text."""
    yield _line(COLUMNS)
    for moment in moments:
        at = moment.at.astimezone(UTC).isoformat(timespec="milliseconds")
        version = "" if moment.version is None else str(moment.version)
        text = (moment.who, moment.action, moment.model)
        rest = (moment.release_id or "", moment.reason, moment.detail)
        yield _line([at, *map(harmless, text), version, *map(harmless, rest)])


def harmless(text: str) -> str:
    """The text with a quote mark before it if it could be a formula."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) or text.startswith(_FORMULA) else text


def _line(cells: Iterable[str]) -> str:
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL).writerow(cells)
    return written.getvalue()

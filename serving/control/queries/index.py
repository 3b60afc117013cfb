"""Every model and release of an installation, kept in memory and looked at again when folders changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.control import aliases, flapping
from serving.control.aliases import Note
from serving.control.flapping import Held
from serving.control.queries import outcomes, shelf
from serving.control.queries.brief import Brief, Keeper
from serving.control.queries.folders import Folder
from serving.control.queries.outcomes import Outcome
from serving.control.queries.shelf import Asked, Entry, Moved, WentBack
from serving.control.queries.statuses import Status
from serving.control.rollout.lock import LockState
from serving.home import Home

# So often the folders are looked at, at most, however many people look at pages.
LOOK_SECONDS = 0.2
# Models that are looked at between two breaths.
_PIECE = 16
_FREE = LockState()


@dataclass(frozen=True, slots=True)
class Shelf:
    """What is known of one model. `entries` and `rollbacks`: the newest first."""

    model: str
    entries: tuple[Entry, ...] = ()
    rollbacks: tuple[WentBack, ...] = ()
    lock: LockState = _FREE
    alias: Note | None = None
    held: Held | None = None

    @property
    def active(self) -> Entry | None:
        """The release under way: the one that has the model's lock or its candidate's traffic."""
        under_way = [e for e in self.entries if e.status.is_under_way and e.status is not Status.QUEUED]
        return under_way[0] if under_way else None

    @property
    def queued(self) -> Entry | None:
        return next((entry for entry in self.entries if entry.status is Status.QUEUED), None)

    @property
    def last(self) -> Entry | None:
        """The newest that is over and meant traffic."""
        over = (e for e in self.entries if e.status.is_over)
        return next((e for e in over if e.status not in (Status.DRY_RUN, Status.SUPERSEDED)), None)


@dataclass(frozen=True, slots=True)
class Shelved:
    """All shelves as of one look; another object when anything is different.

    `newest`: every release of every model, the newest first; `places`: where in it each one is, by id.
    """

    shelves: Mapping[str, Shelf] = field(default_factory=dict)
    newest: tuple[Entry, ...] = ()
    places: Mapping[str, int] = field(default_factory=dict)

    def changed(self, shelves: Mapping[str, Shelf], names: Iterable[str]) -> Shelved:
        """With these shelves, of which only `names` are others than before."""
        entries = [entry for name in names for entry in shelves[name].entries]
        before = sum(len(self.shelves[name].entries) for name in names if name in self.shelves)
        if len(entries) != before or any(entry.id not in self.places for entry in entries):
            return _arranged(shelves)
        # When a release was asked for never changes, so it stays where it was: sorting would take longer.
        newest = list(self.newest)
        for entry in entries:
            newest[self.places[entry.id]] = entry
        return Shelved(shelves, tuple(newest), self.places)


def _arranged(shelves: Mapping[str, Shelf]) -> Shelved:
    every = (entry for one in shelves.values() for entry in one.entries)
    newest = tuple(sorted(every, key=lambda e: (e.at, e.id), reverse=True))
    return Shelved(shelves, newest, {entry.id: place for place, entry in enumerate(newest)})


class Index:
    """All shelves. Safe for many threads; `monotonic` is the machine's uptime in seconds."""

    def __init__(
        self, home: Home, *, monotonic: Callable[[], float] = time.monotonic, keeper: Keeper | None = None
    ) -> None:
        self._home = home
        self._keeper = keeper
        self._models: dict[str, _Model] = {}
        self._found = Shelved()
        self._looked = Brief(self._look, seconds=LOOK_SECONDS, monotonic=monotonic, keeper=keeper)

    def shelves(self) -> Mapping[str, Shelf]:
        """By model, every model of which there is a file."""
        return self._looked.get().shelves

    def shelf(self, model: str) -> Shelf:
        """One model's; an empty one if nothing is known of it."""
        return self.shelves().get(model) or Shelf(model)

    def anew(self, model: str) -> Shelf:
        """One model's as it is this moment: for who asks about what was written just now."""
        return self._looked.anew().shelves.get(model) or Shelf(model)

    def newest(self) -> tuple[Entry, ...]:
        """Every release of every model, the newest first."""
        return self._looked.get().newest

    def find(self, release_id: str) -> Entry | None:
        """The release with this id. One that was asked for a moment ago is there already."""
        found = self._looked.get()
        if release_id not in found.places:
            # A page that says "not found" does not look again by itself.
            found = self._looked.anew()
        place = found.places.get(release_id)
        return None if place is None else found.newest[place]

    def _look(self) -> Shelved:
        changed = []
        for number, name in enumerate(self._names()):
            model = self._models.get(name)
            if model is None:
                model = self._models[name] = _Model(self._home, name)
            if model.refresh() or name not in self._found.shelves:
                changed.append(name)
            if self._keeper and number % _PIECE == 0:
                self._keeper.breathe()
        if changed:
            shelves = {**self._found.shelves, **{name: self._models[name].shelf for name in changed}}
            self._found = self._found.changed(shelves, changed)
        return self._found

    def _names(self) -> list[str]:
        return sorted({*_folders(self._home.journal), *_folders(self._home.releases)})


class _Model:
    """The folders of one model."""

    def __init__(self, home: Home, name: str) -> None:
        self._name = name
        self._asked: Folder[Asked] = Folder(home.releases / name, shelf.parse_asked)
        self._outcomes: Folder[Outcome] = Folder(home.releases / name / outcomes.FOLDER, outcomes.parse)
        self._back: Folder[WentBack] = Folder(home.releases / name / "rollbacks", shelf.parse_went_back)
        self._moved: Folder[Moved | LockState] = Folder(home.journal / name, _state_or_lock)
        self._notes: Folder[Note] = Folder(aliases.folder(home.releases, name), aliases.parse)
        self._held: Folder[Held] = Folder(flapping.hold_folder(home.releases, name), flapping.parse_held)
        self.shelf = Shelf(name)

    def refresh(self) -> bool:
        # Each has to be looked at, hence no `any` over the calls themselves.
        changed = [folder.refresh() for folder in self._folders()]
        if not any(changed):
            return False
        journal = self._moved.files
        lock = journal.get("lock")
        held = lock if isinstance(lock, LockState) else _FREE
        moved = {name: one for name, one in journal.items() if isinstance(one, Moved)}
        made = Shelf(
            self._name,
            shelf.entries(self._asked.files, moved, self._outcomes.files, held, self._back.files.values()),
            tuple(sorted(self._back.files.values(), key=lambda one: one.at, reverse=True)),
            held,
            self._notes.files.get("alias"),
            self._held.files.get("held"),
        )
        # A folder that changed a moment ago is read twice; what is made of shelves need not be made twice.
        is_different = made != self.shelf
        self.shelf = made if is_different else self.shelf
        return is_different

    def _folders(self) -> tuple[Folder[Any], ...]:
        return (self._moved, self._asked, self._outcomes, self._back, self._notes, self._held)


def _state_or_lock(content: bytes) -> Moved | LockState:
    """The journal's folder has both; only a lock has a holder."""
    return shelf.parse_lock(content) if b'"holder"' in content[:40] else shelf.parse_moved(content)


def _folders(root: Path) -> Iterable[str]:
    try:
        with os.scandir(root) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []

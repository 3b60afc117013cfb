"""Every model and release of an installation, kept in memory and looked at again when folders changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_store.errors import Retryable
from serving.control import aliases, cooldowns
from serving.control.aliases import AliasNote
from serving.control.cooldowns import ModelHold
from serving.control.notes import NoteKind, Notes
from serving.control.queries import outcomes, snapshots
from serving.control.queries.cached import Cached, Refresher
from serving.control.queries.folders import Folder
from serving.control.queries.outcomes import ReleaseOutcome
from serving.control.queries.rollouts import RolloutFeed
from serving.control.queries.snapshots import ReleaseEntry, RequestSnapshot, RollbackSnapshot
from serving.control.queries.statuses import ReleaseStatus
from serving.control.rollout.lock import LockState
from serving.home import Home
from serving.ledger.rows import Note

# So often the folders are looked at, at most, however many people look at pages.
LOOK_SECONDS = 0.2
# Models that are looked at between two breaths.
_PIECE = 16
_FREE = LockState()


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """What is known of one model. `entries` and `rollbacks`: the newest first."""

    model: str
    entries: tuple[ReleaseEntry, ...] = ()
    rollbacks: tuple[RollbackSnapshot, ...] = ()
    lock: LockState = _FREE
    alias: AliasNote | None = None
    held: ModelHold | None = None

    @property
    def active(self) -> ReleaseEntry | None:
        """The release under way: the one that has the model's lock or its candidate's traffic."""
        under_way = [
            e for e in self.entries if e.status.is_under_way and e.status is not ReleaseStatus.QUEUED
        ]
        return under_way[0] if under_way else None

    @property
    def queued(self) -> ReleaseEntry | None:
        return next((entry for entry in self.entries if entry.status is ReleaseStatus.QUEUED), None)

    @property
    def last(self) -> ReleaseEntry | None:
        """The newest that is over and meant traffic."""
        over = (e for e in self.entries if e.status.is_over)
        return next(
            (e for e in over if e.status not in (ReleaseStatus.DRY_RUN, ReleaseStatus.SUPERSEDED)), None
        )


@dataclass(frozen=True, slots=True)
class Snapshots:
    """All snapshots as of one look; another object when anything is different.

    `newest`: every release of every model, the newest first; `places`: where in it each one is, by id.
    """

    by_model: Mapping[str, ModelSnapshot] = field(default_factory=dict)
    newest: tuple[ReleaseEntry, ...] = ()
    places: Mapping[str, int] = field(default_factory=dict)

    def changed(self, by_model: Mapping[str, ModelSnapshot], names: Iterable[str]) -> Snapshots:
        """With these snapshots, of which only `names` are others than before."""
        entries = [entry for name in names for entry in by_model[name].entries]
        before = sum(len(self.by_model[name].entries) for name in names if name in self.by_model)
        if len(entries) != before or any(entry.id not in self.places for entry in entries):
            return _arranged(by_model)
        # When a release was asked for never changes, so it stays where it was: sorting would take longer.
        newest = list(self.newest)
        for entry in entries:
            newest[self.places[entry.id]] = entry
        return Snapshots(by_model, tuple(newest), self.places)


def _arranged(by_model: Mapping[str, ModelSnapshot]) -> Snapshots:
    every = (entry for one in by_model.values() for entry in one.entries)
    newest = tuple(sorted(every, key=lambda e: (e.at, e.id), reverse=True))
    return Snapshots(by_model, newest, {entry.id: place for place, entry in enumerate(newest)})


class Index:
    """All snapshots. Safe for many threads; `monotonic` is the machine's uptime in seconds."""

    def __init__(
        self,
        home: Home,
        notes: Notes,
        rollouts: RolloutFeed,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        refresher: Refresher | None = None,
    ) -> None:
        self._home, self._notes, self._rollouts = home, notes, rollouts
        self._noted: Mapping[str, dict[str, Note]] = {}
        self._refresher = refresher
        self._models: dict[str, _Model] = {}
        self._found = Snapshots()
        self._looked = Cached(self._look, seconds=LOOK_SECONDS, monotonic=monotonic, refresher=refresher)

    def by_model(self) -> Mapping[str, ModelSnapshot]:
        """By model, every model of which there is a file."""
        return self._looked.get().by_model

    def snapshot(self, model: str) -> ModelSnapshot:
        """One model's; an empty one if nothing is known of it."""
        return self.by_model().get(model) or ModelSnapshot(model)

    def anew(self, model: str) -> ModelSnapshot:
        """One model's as it is this moment: for who asks about what was written just now."""
        return self._looked.anew().by_model.get(model) or ModelSnapshot(model)

    def newest(self) -> tuple[ReleaseEntry, ...]:
        """Every release of every model, the newest first."""
        return self._looked.get().newest

    def find(self, release_id: str) -> ReleaseEntry | None:
        """The release with this id. One that was asked for a moment ago is there already."""
        found = self._looked.get()
        if release_id not in found.places:
            # A page that says "not found" does not look again by itself.
            found = self._looked.anew()
        place = found.places.get(release_id)
        return None if place is None else found.newest[place]

    def _look(self) -> Snapshots:
        changed, rolled = [], self._rollouts.refresh()
        with suppress(Retryable):
            # As of before, while the controller is away.
            self._noted = _by_model(self._notes.standing(NoteKind.HOLD, NoteKind.ALIAS))
        for number, name in enumerate(self._names()):
            model = self._models.get(name)
            is_rolled = name in rolled or model is None
            if model is None:
                model = self._models[name] = _Model(self._home, name, self._rollouts)
            is_different = model.refresh(self._noted.get(name, {}), is_rolled=is_rolled)
            if is_different or name not in self._found.by_model:
                changed.append(name)
            if self._refresher and number % _PIECE == 0:
                self._refresher.breathe()
        if changed:
            by_model = {**self._found.by_model, **{name: self._models[name].snapshot for name in changed}}
            self._found = self._found.changed(by_model, changed)
        return self._found

    def _names(self) -> list[str]:
        return sorted({*self._rollouts.names(), *_folders(self._home.releases), *self._noted})


class _Model:
    """The folders of one model."""

    def __init__(self, home: Home, name: str, rollouts: RolloutFeed) -> None:
        self._name, self._rollouts = name, rollouts
        self._requests: Folder[RequestSnapshot] = Folder(home.releases / name, snapshots.parse_request)
        self._outcomes: Folder[ReleaseOutcome] = Folder(
            home.releases / name / outcomes.FOLDER, outcomes.parse
        )
        self._back: Folder[RollbackSnapshot] = Folder(
            home.releases / name / "rollbacks", snapshots.parse_rollback
        )
        self._noted: dict[str, Note] = {}
        self.snapshot = ModelSnapshot(name)

    def refresh(self, noted: dict[str, Note], *, is_rolled: bool) -> bool:
        """`is_rolled`: its rollouts or its lock changed."""
        # Each has to be looked at, hence no `any` over the calls themselves.
        changed = [folder.refresh() for folder in self._folders()]
        if not (any(changed) or is_rolled) and noted == self._noted:
            return False
        self._noted = noted
        alias, hold = noted.get(NoteKind.ALIAS), noted.get(NoteKind.HOLD)
        held, rollout = self._rollouts.lock(self._name), self._rollouts.of(self._name)
        made = ModelSnapshot(
            self._name,
            snapshots.entries(
                self._requests.files, rollout, self._outcomes.files, held, self._back.files.values()
            ),
            tuple(sorted(self._back.files.values(), key=lambda one: one.at, reverse=True)),
            held,
            aliases.read_note(alias) if alias else None,
            cooldowns.read_hold(hold) if hold else None,
        )
        # A folder that changed a moment ago is read twice; what is made of shelves need not be made twice.
        is_different = made != self.snapshot
        self.snapshot = made if is_different else self.snapshot
        return is_different

    def _folders(self) -> tuple[Folder[Any], ...]:
        return (self._requests, self._outcomes, self._back)


def _by_model(notes: Iterable[Note]) -> dict[str, dict[str, Note]]:
    found: dict[str, dict[str, Note]] = {}
    for note in notes:
        found.setdefault(note.model, {})[note.kind] = note
    return found


def _folders(root: Path) -> Iterable[str]:
    try:
        with os.scandir(root) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []

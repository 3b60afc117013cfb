"""Every model and release of an installation, kept in memory and looked at again where rows changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from model_store.errors import Retryable
from serving.control import aliases, cooldowns
from serving.control.aliases import AliasNote
from serving.control.cooldowns import ModelHold
from serving.control.notes import NoteKind, Notes
from serving.control.queries import snapshots
from serving.control.queries.cached import Cached, Refresher
from serving.control.queries.requests import RequestFeed
from serving.control.queries.rollouts import RolloutFeed
from serving.control.queries.snapshots import ReleaseEntry, RollbackSnapshot
from serving.control.queries.statuses import ReleaseStatus
from serving.control.rollout.lock import LockState
from serving.ledger.rows import NoteRow

# So often it is asked what changed, at most, however many people look at pages.
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
        notes: Notes,
        requests: RequestFeed,
        rollouts: RolloutFeed,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        refresher: Refresher | None = None,
    ) -> None:
        self._notes, self._requests, self._rollouts = notes, requests, rollouts
        self._noted: Mapping[str, dict[str, NoteRow]] = {}
        self._refresher = refresher
        self._models: dict[str, _Model] = {}
        self._found = Snapshots()
        self._looked = Cached(self._look, seconds=LOOK_SECONDS, monotonic=monotonic, refresher=refresher)

    def by_model(self) -> Mapping[str, ModelSnapshot]:
        """By model, every model of which anything is known."""
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
        changed, rolled = [], self._rollouts.refresh() | self._requests.refresh()
        with suppress(Retryable):
            # As of before, while the controller is away.
            self._noted = _by_model(self._notes.standing(NoteKind.HOLD, NoteKind.ALIAS))
        for number, name in enumerate(self._names()):
            model = self._models.get(name)
            is_changed = name in rolled or model is None
            if model is None:
                model = self._models[name] = _Model(name, self._requests, self._rollouts)
            is_different = model.refresh(self._noted.get(name, {}), is_changed=is_changed)
            if is_different or name not in self._found.by_model:
                changed.append(name)
            if self._refresher and number % _PIECE == 0:
                self._refresher.breathe()
        if changed:
            by_model = {**self._found.by_model, **{name: self._models[name].snapshot for name in changed}}
            self._found = self._found.changed(by_model, changed)
        return self._found

    def _names(self) -> list[str]:
        return sorted({*self._rollouts.names(), *self._requests.names(), *self._noted})


class _Model:
    """What is known of one model."""

    def __init__(self, name: str, requests: RequestFeed, rollouts: RolloutFeed) -> None:
        self._name, self._requests, self._rollouts = name, requests, rollouts
        self._noted: dict[str, NoteRow] = {}
        self.snapshot = ModelSnapshot(name)

    def refresh(self, noted: dict[str, NoteRow], *, is_changed: bool) -> bool:
        """`is_changed`: what was asked for, its rollouts or its lock is another than before."""
        if not is_changed and noted == self._noted:
            return False
        self._noted = noted
        alias, hold = noted.get(NoteKind.ALIAS), noted.get(NoteKind.HOLD)
        held, rollout = self._rollouts.lock(self._name), self._rollouts.of(self._name)
        asked, back = self._requests.requests(self._name), self._requests.rollbacks(self._name).values()
        made = ModelSnapshot(
            self._name,
            snapshots.entries(asked, rollout, self._requests.outcomes(self._name), held, back),
            tuple(sorted(back, key=lambda one: one.at, reverse=True)),
            held,
            aliases.read_note(alias) if alias else None,
            cooldowns.read_hold(hold) if hold else None,
        )
        # A row that was saved as it was changes nothing.
        is_different = made != self.snapshot
        self.snapshot = made if is_different else self.snapshot
        return is_different


def _by_model(notes: Iterable[NoteRow]) -> dict[str, dict[str, NoteRow]]:
    found: dict[str, dict[str, NoteRow]] = {}
    for note in notes:
        found.setdefault(note.model, {})[note.kind] = note
    return found

"""What people are shown, put together from the books. One for each process; safe for many threads."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from datetime import datetime, timedelta
from typing import TypeVar

from model_store.errors import Permanent
from serving.control import blockers, wiring
from serving.control.blockers import Blocker
from serving.control.freezes import Frozen
from serving.control.queries import release_view
from serving.control.queries.activity import Activity, ActivityLog, AuditReader, HistoryFilter
from serving.control.queries.cached import Cached, Refresher
from serving.control.queries.health import HealthMonitor
from serving.control.queries.index import Index
from serving.control.queries.models import ModelRows, Models, has_bundle
from serving.control.queries.requests import RequestFeed
from serving.control.queries.rollouts import RolloutFeed
from serving.control.queries.rows import PageRows
from serving.control.queries.runs import Runs
from serving.control.queries.series import Series, series_of
from serving.control.queries.snapshots import ReleaseEntry
from serving.control.queries.statuses import ReleaseStatus
from serving.control.queries.traffic import Traffic
from serving.control.queries.views import (
    BlockerRow,
    History,
    HistoryEvent,
    ModelRow,
    Overview,
    ReleasePage,
    ReleaseView,
    RollbackRow,
    ServingAt,
    page_of,
)
from serving.control.release_deployment import route_of
from serving.control.rollout.journal import UnknownRelease
from serving.control.wiring import Services
from serving.metrics.base import MetricsSource

RELEASES_A_PAGE = 50
SERIES_KEPT = 64
CLOCKS_DIFFER = timedelta(minutes=1)
T = TypeVar("T")


class NothingFound(Permanent):
    """No model or release has this name."""


class InTheFuture(Permanent):
    """Nobody knows what will serve."""


class Catalog:
    """`source` is the proxy, `runs` Airflow; `now` tells the time in UTC.

    With a `keeper`, what many pages show is made anew beside those who look.
    """

    def __init__(
        self,
        services: Services,
        runs: Runs,
        source: MetricsSource,
        *,
        now: Callable[[], datetime] = wiring.now,
        monotonic: Callable[[], float] = time.monotonic,
        refresher: Refresher | None = None,
    ) -> None:
        self.services = services
        self._runs = runs
        self._now = now
        self._sees: Callable[[str], bool] | None = None
        self._refresher = refresher
        self._index = Index(
            services.notes,
            RequestFeed(services.rows),
            RolloutFeed(services.rows, monotonic=monotonic),
            monotonic=monotonic,
            refresher=refresher,
        )
        self._traffic = Traffic(services.history, monotonic=monotonic)
        self._watch = HealthMonitor(source, monotonic=monotonic)
        self._people = AuditReader(services.rows)
        self._chronicle = ActivityLog(refresher.breathe if refresher else lambda: None)
        self._drawn: OrderedDict[str, tuple[tuple[int, int], Series]] = OrderedDict()
        # Pages that many people watch ask for the same things several times a second.
        self._rows = PageRows(
            services, runs, self._traffic, now=now, monotonic=monotonic, refresher=refresher
        )
        self._model_rows = ModelRows(
            services, self._rows, self._traffic, self._watch, now=now, refresher=refresher
        )
        self._dags = Cached(runs.models, seconds=5.0, monotonic=monotonic, refresher=refresher)
        self._models = Cached(self._every_model, seconds=0.5, monotonic=monotonic, refresher=refresher)
        self._of_specs = Cached(
            self._every_spec_freeze, seconds=0.5, monotonic=monotonic, refresher=refresher
        )
        self._moments = Cached(self._every_moment, seconds=0.5, monotonic=monotonic, refresher=refresher)

    def warm(self) -> None:
        """Read everything, so that whoever comes first does not wait for it."""
        self._models.get()
        self._moments.get()

    def close(self) -> None:
        """Make nothing anew any more, until somebody asks."""
        if self._refresher:
            self._refresher.end()

    def shown_to(self, sees: Callable[[str], bool]) -> Catalog:
        """The same books, of which only models that one `sees` are told; not even counts of others.

        `sees` is asked about "" too: what holds every model.
        """
        shown = copy(self)
        shown._sees = sees
        return shown

    def overview(self, *, query: str = "", only: str = "", page: int = 1) -> Overview:
        """All models, `query` in their names; `only`: under_way, waiting, unwell, or "" for all."""
        return self._seen_models().overview(query, only, page)

    def now(self) -> datetime:
        """The time by which the views are told."""
        return self._now()

    def freezes(self) -> Sequence[Frozen]:
        """Those in force that hold all models or one that somebody froze, and of specs those that hold
        what is on its way."""
        return self._seen([*self._rows.freezes(), *self._of_specs.get()], lambda one: one.model or "")

    def standing_still(self) -> list[BlockerRow]:
        """Everything that does not go on by itself, why, and the way out: what holds all models first."""
        found = [_of_blocker("", one) for one in blockers.of_installation(self._rows.situation())]
        for row in self._seen_models().rows:
            found += [_of_blocker(row.name, one) for one in row.stands_still]
            found += [
                BlockerRow(one.model, one.version, one.id, one.stands_still, one.why, one.way_out)
                for one in (row.active, row.queued)
                if one and one.stands_still
            ]
        return found

    def names(self) -> list[str]:
        """Every model there is."""
        return sorted(row.name for row in self._seen_models().rows)

    def model(self, name: str) -> ModelRow:
        """Raises `NothingThere`."""
        for row in self._seen_models().rows:
            if row.name == name:
                return row
        raise NothingFound(f"there is no model {name}", remedy="the overview lists those there are")

    def returnable(self, name: str) -> list[int]:
        """Versions that served once and whose bundle is there, the newest first: where a rollback can go."""
        served = {e.version for e in self._index.snapshot(name).entries if _has_way_back(self.services, e)}
        now_serving = {arm.version for arm in self._rows.serving(name, route_of(self.services, name))}
        return sorted(served - now_serving, reverse=True)

    def releases(self, *, model: str = "", status: str = "", page: int = 1) -> ReleasePage:
        """The newest first. `status`: one of `Status`, or under_way."""
        found = self._index.snapshot(model).entries if model else self._index.newest()
        entries = self._seen(found, lambda entry: entry.model)
        if status:
            entries = self._rows.with_status(entries, status)
        page, pages = page_of(len(entries), size=RELEASES_A_PAGE, page=page)
        shown = entries[(page - 1) * RELEASES_A_PAGE : page * RELEASES_A_PAGE]
        return ReleasePage(tuple(map(self._rows.row, shown)), len(entries), page, pages)

    def release(self, release_id: str) -> ReleaseView:
        """Raises `NothingThere`."""
        entry = self._entry(release_id)
        run = self._runs.run(entry.request.dag_id, entry.request.run_id) if entry.request else None
        mine = [moment for moment in self._people.moments() if moment.release_id == entry.id]
        approval = self._rows.approval(entry)
        return release_view.release_view(
            self.services,
            entry,
            row=self._rows.row(entry),
            run=run,
            route=route_of(self.services, entry.model),
            people=mine,
            approvals=(approval,) if approval else (),
            at=self._now(),
        )

    def rollback(self, model: str, rollback_id: str) -> RollbackRow:
        """How far one has come. Raises `NothingThere`."""
        known = self._index.anew(model).rollbacks if self._seen([model], str) else ()
        for back in known:
            if back.id == rollback_id:
                return self._rows.rollback(back)
        raise NothingFound(
            f"there is no rollback {rollback_id} of {model}", remedy="the history lists those there were"
        )

    def series(self, release_id: str) -> Series:
        """Raises `NothingThere`. Empty before the rollout began."""
        entry = self._entry(release_id)
        journal = self.services.journal
        try:
            policy = journal.load(release_id).plan.policy
        except UnknownRelease:
            raise NothingFound(
                f"{release_id} has had no traffic yet", remedy="wait until its rollout begins"
            ) from None
        # Records are only ever added, and the state is another with every generation.
        mark = journal.observed(release_id), entry.rollout.generation if entry.rollout else 0
        if (drawn := self._drawn.get(entry.id)) and drawn[0] == mark:
            return drawn[1]
        series = series_of(
            entry.id, journal.records(release_id), policy, entry.rollout.events if entry.rollout else ()
        )
        self._drawn[entry.id] = (mark, series)
        if len(self._drawn) > SERIES_KEPT:
            self._drawn.popitem(last=False)
        return series

    def history(self, wanted: HistoryFilter, *, page: int = 1) -> History:
        """One page of what happened in production."""
        return self._happened().history(wanted, page=page)

    def everything(self, wanted: HistoryFilter) -> Iterable[HistoryEvent]:
        """All that the filter takes, the newest first, for an export."""
        return (moment for moment in self._happened().newest if wanted.takes(moment))

    def people(self) -> list[str]:
        """Who ever did anything."""
        return self._happened().people()

    def actions(self) -> list[str]:
        """What was ever done."""
        return self._happened().actions()

    def serving_at(self, moment: datetime) -> ServingAt:
        """What served then. Raises `YetToCome`; whose clock is a little ahead is told of now."""
        if moment > self._now() + CLOCKS_DIFFER:
            raise InTheFuture(
                f"{moment:%Y-%m-%d %H:%M:%S} UTC is yet to come", remedy="ask about a moment that is over"
            )
        return self._traffic.at(moment, self._sees)

    def _seen_models(self) -> Models:
        every = self._models.get()
        return every if self._sees is None else Models(tuple(self._seen(every.rows, _name)), every.at)

    def _happened(self) -> Activity:
        every = self._moments.get()
        return every if self._sees is None else Activity(self._seen(every.newest, lambda one: one.model))

    def _seen(self, found: Sequence[T], model_of: Callable[[T], str]) -> Sequence[T]:
        if (sees := self._sees) is None:
            return found
        return [one for one in found if sees(model_of(one))]

    def _entry(self, release_id: str) -> ReleaseEntry:
        entry = self._index.find(release_id)
        if entry is None or not self._seen([entry], lambda entry: entry.model):
            raise NothingFound(
                f"there is no release {release_id}", remedy="the release list has those there are"
            )
        return entry

    def _every_model(self) -> Models:
        return self._model_rows.models(self._index.by_model(), self._dags.get())

    def _every_spec_freeze(self) -> list[Frozen]:
        found = [snapshot.active for snapshot in self._index.by_model().values()]
        # What is promoted already no freeze holds.
        on_its_way = [
            e for e in found if e and e.status is not ReleaseStatus.WATCHING and self._rows.is_under_way(e)
        ]
        held = map(self._rows.holding, on_its_way)
        return [one for one in held if one and one.source == "spec"]

    def _every_moment(self) -> Activity:
        return self._chronicle.moments(self._index.by_model(), self._people.moments())


def _has_way_back(services: Services, entry: ReleaseEntry) -> bool:
    return entry.rollout is not None and entry.rollout.phase == "done" and has_bundle(services, entry)


def _of_blocker(model: str, one: Blocker) -> BlockerRow:
    return BlockerRow(model, None, None, one.kind, one.words, one.way_out)


def _name(row: ModelRow) -> str:
    return row.name

"""What people are shown, put together from the books. One for each process; safe for many threads."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from datetime import datetime
from typing import TypeVar

from model_store.errors import Permanent
from serving.freezes import Frozen
from serving.metrics.base import MetricsSource
from serving.rollout.journal import UnknownRelease
from serving.types import Route
from slipway_airflow import wiring
from slipway_airflow.books import acts, release_view
from slipway_airflow.books.acts import Chronicle, Filter, People
from slipway_airflow.books.brief import Brief
from slipway_airflow.books.health import Watch
from slipway_airflow.books.index import Index, Shelf
from slipway_airflow.books.rows import Rows
from slipway_airflow.books.runs import ModelDag, Runs
from slipway_airflow.books.series import Series, series_of
from slipway_airflow.books.shelf import Entry
from slipway_airflow.books.traffic import Traffic
from slipway_airflow.books.views import (
    Health,
    History,
    ModelRow,
    Moment,
    Overview,
    Releases,
    ReleaseView,
    ServingAt,
    Status,
    page_of,
)
from slipway_airflow.rolling import route_of
from slipway_airflow.wiring import Services

MODELS_A_PAGE = 50
RELEASES_A_PAGE = 50
SERIES_KEPT = 64
_UNWELL = (Health.FAILING, Health.DOWN)
T = TypeVar("T")


class NothingThere(Permanent):
    """No model or release has this name."""


class Library:
    """`source` is the proxy, `runs` Airflow; `now` tells the time in UTC."""

    def __init__(
        self,
        services: Services,
        runs: Runs,
        source: MetricsSource,
        *,
        now: Callable[[], datetime] = wiring.now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.services = services
        self._runs = runs
        self._now = now
        self._sees: Callable[[str], bool] | None = None
        self._index = Index(services.home, monotonic=monotonic)
        self._traffic = Traffic(services.home.route_history)
        self._watch = Watch(source, monotonic=monotonic)
        self._people = People(services.home.audit)
        self._chronicle = Chronicle()
        self._drawn: OrderedDict[str, tuple[int, Series]] = OrderedDict()
        # Pages that many people watch ask for the same things several times a second.
        self._rows = Rows(services, runs, self._traffic, now=now, monotonic=monotonic)
        self._dags = Brief(runs.models, seconds=5.0, monotonic=monotonic)
        self._models = Brief(self._every_model, seconds=0.5, monotonic=monotonic)
        self._moments = Brief(self._every_moment, seconds=0.5, monotonic=monotonic)

    def shown_to(self, sees: Callable[[str], bool]) -> Library:
        """The same books, of which only models that one `sees` are told; not even counts of others.

        `sees` is asked about "" too: what holds every model.
        """
        shown = copy(self)
        shown._sees = sees
        return shown

    def overview(self, *, query: str = "", only: str = "", page: int = 1) -> Overview:
        """All models, `query` in their names; `only`: under_way, waiting, unwell, or "" for all."""
        rows = self._seen(self._models.get(), lambda row: row.name)
        matching = [row for row in rows if query.lower() in row.name.lower() and _is_wanted(row, only)]
        page, pages = page_of(len(matching), size=MODELS_A_PAGE, page=page)
        return Overview(
            models=tuple(matching[(page - 1) * MODELS_A_PAGE : page * MODELS_A_PAGE]),
            total=len(rows),
            matching=len(matching),
            page=page,
            pages=pages,
            under_way=tuple(row.active for row in rows if row.active),
            approvals=tuple(row.approval for row in rows if row.approval),
            serving=sum(1 for row in rows if row.serving),
            unwell=sum(1 for row in rows if row.health.health in _UNWELL),
            queued=sum(1 for row in rows if row.queued),
            at=self._now(),
        )

    def now(self) -> datetime:
        """The time by which the views are told."""
        return self._now()

    def freezes(self) -> Sequence[Frozen]:
        """Those in force that hold all models, or one that somebody froze."""
        return self._seen(self._rows.freezes(), lambda one: one.model or "")

    def names(self) -> list[str]:
        """Every model there is."""
        return sorted(row.name for row in self._seen(self._models.get(), lambda row: row.name))

    def model(self, name: str) -> ModelRow:
        """Raises `NothingThere`."""
        for row in self._seen(self._models.get(), lambda row: row.name):
            if row.name == name:
                return row
        raise NothingThere(f"there is no model {name}", remedy="the overview lists those there are")

    def returnable(self, name: str) -> list[int]:
        """Versions that served once, the newest first: those to which a rollback can go."""
        served = {e.version for e in self._index.shelf(name).entries if e.status is Status.PROMOTED}
        now_serving = {arm.version for arm in self._rows.serving(name, route_of(self.services, name))}
        return sorted(served - now_serving, reverse=True)

    def releases(self, *, model: str = "", status: str = "", page: int = 1) -> Releases:
        """The newest first. `status`: one of `Status`, or under_way."""
        found = self._index.shelf(model).entries if model else self._index.newest()
        entries = self._seen(found, lambda entry: entry.model)
        if status:
            entries = [entry for entry in entries if _has(self._rows.standing(entry)[0], status)]
        page, pages = page_of(len(entries), size=RELEASES_A_PAGE, page=page)
        shown = entries[(page - 1) * RELEASES_A_PAGE : page * RELEASES_A_PAGE]
        return Releases(tuple(map(self._rows.row, shown)), len(entries), page, pages)

    def release(self, release_id: str) -> ReleaseView:
        """Raises `NothingThere`."""
        entry = self._entry(release_id)
        run = self._runs.run(entry.asked.dag_id, entry.asked.run_id) if entry.asked else None
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

    def series(self, release_id: str) -> Series:
        """Raises `NothingThere`. Empty before the rollout began."""
        entry = self._entry(release_id)
        journal = self.services.journal
        try:
            policy = journal.load(release_id).plan.policy
        except UnknownRelease:
            raise NothingThere(
                f"{release_id} has had no traffic yet", remedy="wait until its rollout begins"
            ) from None
        counts = journal.counts_path(release_id)
        size = counts.stat().st_size if counts.exists() else 0
        if (drawn := self._drawn.get(entry.id)) and drawn[0] == size:
            return drawn[1]
        # Only ever appended to, so its size tells whether there is more to draw.
        series = series_of(entry.id, journal.records(release_id), policy)
        self._drawn[entry.id] = (size, series)
        if len(self._drawn) > SERIES_KEPT:
            self._drawn.popitem(last=False)
        return series

    def history(self, wanted: Filter, *, page: int = 1) -> History:
        """One page of what happened in production."""
        return acts.history(self._happened(), wanted, page=page)

    def everything(self, wanted: Filter) -> Iterable[Moment]:
        """All that the filter takes, the newest first, for an export."""
        return (moment for moment in self._happened() if wanted.takes(moment))

    def people(self) -> list[str]:
        """Who ever did anything."""
        return sorted({moment.who for moment in self._happened()})

    def actions(self) -> list[str]:
        """What was ever done."""
        return sorted({moment.action for moment in self._happened()})

    def serving_at(self, moment: datetime) -> ServingAt:
        """What served then."""
        return self._traffic.at(moment, self._sees)

    def _happened(self) -> Sequence[Moment]:
        return self._seen(self._moments.get(), lambda moment: moment.model)

    def _seen(self, found: Sequence[T], model_of: Callable[[T], str]) -> Sequence[T]:
        if (sees := self._sees) is None:
            return found
        return [one for one in found if sees(model_of(one))]

    def _entry(self, release_id: str) -> Entry:
        entry = self._index.find(release_id)
        if entry is None or not self._seen([entry], lambda entry: entry.model):
            raise NothingThere(
                f"there is no release {release_id}", remedy="the release list has those there are"
            )
        return entry

    def _every_model(self) -> list[ModelRow]:
        """Those that need somebody first, then by name."""
        shelves, dags = self._index.shelves(), self._dags.get()
        names = {*shelves, *dags, *self.services.router.services()}
        rows = [self._model_row(name, shelves.get(name) or Shelf(name), dags.get(name)) for name in names]
        return sorted(rows, key=lambda row: (_urgency(row), row.name))

    def _every_moment(self) -> list[Moment]:
        return self._chronicle.moments(self._index.shelves(), self._people.moments())

    def _model_row(self, name: str, shelf: Shelf, dag: ModelDag | None) -> ModelRow:
        route = route_of(self.services, name)
        active, queued, last = shelf.active, shelf.queued or self._beginning(shelf), shelf.last
        return ModelRow(
            name=name,
            description=dag.description if dag else "",
            serving=self._rows.serving(name, route),
            health=self._watch.of(route),
            active=self._rows.row(active) if active else None,
            queued=self._rows.row(queued) if queued else None,
            approval=self._rows.approval(active) if active else None,
            last=self._rows.row(last) if last else None,
            releases=len(shelf.entries),
            can_return_to=_previous(shelf, route),
        )

    def _beginning(self, shelf: Shelf) -> Entry | None:
        """A release that was just asked for: only Airflow knows yet that it is on its way."""
        newest = shelf.entries[:3]
        return next((e for e in newest if self._rows.standing(e)[0] is Status.QUEUED), None)


def _is_wanted(row: ModelRow, only: str) -> bool:
    match only:
        case "under_way":
            return row.active is not None or row.queued is not None
        case "waiting":
            return row.approval is not None
        case "unwell":
            return row.health.health in _UNWELL
    return True


def _urgency(row: ModelRow) -> int:
    if row.health.health in _UNWELL:
        return 0
    if row.approval:
        return 1
    return 2 if row.active or row.queued else 3


def _has(status: Status, wanted: str) -> bool:
    return status.is_under_way if wanted == "under_way" else status == wanted


def _previous(shelf: Shelf, route: Route | None) -> int | None:
    """Where a rollback without a version goes, as `slipway_airflow.going_back` finds it."""
    active = [e.moved for e in shelf.entries if e.moved and e.moved.phase in ("progressing", "watching")]
    if active:
        return active[0].previous_version
    if route is None or route.stable is None:
        return None
    done = [e.moved for e in shelf.entries if e.moved and e.moved.phase == "done"]
    return next((m.previous_version for m in done if m.version == route.stable.version), None)

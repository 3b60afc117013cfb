"""The overview's row of each model, made anew only where something is different."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from model_store.errors import Retryable
from serving.control import blockers, cooldowns
from serving.control.blockers import Blocker, BlockerKind
from serving.control.queries import rollback_progress
from serving.control.queries.cached import Refresher
from serving.control.queries.health import HealthMonitor
from serving.control.queries.index import ModelSnapshot
from serving.control.queries.rows import PageRows
from serving.control.queries.runs import ModelDag, Situation
from serving.control.queries.snapshots import ReleaseEntry
from serving.control.queries.statuses import ModelHealth, ReleaseStatus
from serving.control.queries.traffic import Traffic
from serving.control.queries.views import ModelRow, Overview, RollbackRow, page_of
from serving.control.release_deployment import route_of
from serving.control.specs import dag_id_of
from serving.control.wiring import Services
from serving.types import Route

MODELS_A_PAGE = 50
UNWELL = (ModelHealth.FAILING, ModelHealth.DOWN)
# Models between two breaths, and answers kept of one list.
_PIECE = 8
_ANSWERS = 64
# Of a rollback that was asked for before that nobody needs to be told where the model is.
_OLD = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Models:
    """Every model's row as of one moment: those that need somebody first, then by name."""

    rows: tuple[ModelRow, ...]
    at: datetime
    _told: dict[tuple[str, str, int], Overview] = field(default_factory=dict, compare=False)

    def overview(self, query: str, only: str, page: int) -> Overview:
        """The same object for the same question: whoever encodes it need not do so twice."""
        request = (query, only, page)
        if (told := self._told.get(request)) is None:
            told = self._overview(query, only, page)
            if len(self._told) < _ANSWERS:
                self._told[request] = told
        return told

    def _overview(self, query: str, only: str, page: int) -> Overview:
        rows = [row for row in self.rows if not _is_unreleased(row)]
        matching = [row for row in rows if query.lower() in row.name.lower() and _is_wanted(row, only)]
        page, pages = page_of(len(matching), size=MODELS_A_PAGE, page=page)
        return Overview(
            models=tuple(matching[(page - 1) * MODELS_A_PAGE : page * MODELS_A_PAGE]),
            unreleased=tuple(
                row for row in self.rows if _is_unreleased(row) and query.lower() in row.name.lower()
            ),
            total=len(rows),
            matching=len(matching),
            page=page,
            pages=pages,
            under_way=tuple(row.active for row in rows if row.active),
            approvals=tuple(row.approval for row in rows if row.approval),
            serving=sum(1 for row in rows if row.serving),
            unwell=sum(1 for row in rows if row.health.health in UNWELL),
            queued=sum(1 for row in rows if row.queued),
            at=self.at,
        )


@dataclass(frozen=True, slots=True)
class _RowInputs:
    """What a row was made of. `changes`: how often the model's route was changed."""

    snapshot: ModelSnapshot
    route: Route | None
    dag: ModelDag | None
    changes: int

    def is_the_same(self, other: _RowInputs) -> bool:
        # Shelves and routes are other objects when they say something else; comparing them takes longer.
        is_same_file = self.snapshot is other.snapshot and self.route is other.route
        return is_same_file and self.changes == other.changes and self.dag == other.dag


class ModelRows:
    """Makes the rows. Only one thread may at a time."""

    def __init__(
        self,
        services: Services,
        rows: PageRows,
        traffic: Traffic,
        watch: HealthMonitor,
        *,
        now: Callable[[], datetime],
        refresher: Refresher | None,
    ) -> None:
        self._services = services
        self._rows = rows
        self._traffic = traffic
        self._watch = watch
        self._now = now
        self._refresher = refresher
        self._kept: dict[str, tuple[_RowInputs, ModelRow]] = {}

    def models(self, by_model: Mapping[str, ModelSnapshot], dags: Mapping[str, ModelDag]) -> Models:
        """All that have files, a DAG or a route."""
        made = []
        for number, name in enumerate({*by_model, *dags, *self._services.router.services()}):
            made.append(self._row(name, by_model.get(name) or ModelSnapshot(name), dags.get(name)))
            if self._refresher and number % _PIECE == 0:
                self._refresher.breathe()
        return Models(tuple(sorted(made, key=lambda row: (_urgency(row), row.name))), self._now())

    def _row(self, name: str, snapshot: ModelSnapshot, dag: ModelDag | None) -> ModelRow:
        """A model whose releases are over only changes with its files, route, DAG and health."""
        route = route_of(self._services, name)
        seen = _RowInputs(snapshot, route, dag, self._traffic.count(name))
        known = self._kept.get(name)
        if known and known[0].is_the_same(seen):
            health = self._watch.of(route)
            row = known[1] if known[1].health == health else replace(known[1], health=health)
        else:
            row = self._made(name, snapshot, dag, route)
            if _is_idle(snapshot):
                self._kept[name] = (seen, row)
            else:
                self._kept.pop(name, None)
        # Asked every time: a bundle goes without a word in any file that is looked at, and so does Airflow.
        row = _with_rollback(self._with_way_back(row, snapshot), self._rollback(snapshot))
        return _with_blockers(row, tuple(self._still(name, snapshot, row.rollback)))

    def _cools_until(self, name: str, snapshot: ModelSnapshot, situation: Situation) -> datetime | None:
        """While a run waits that has not become a release: that is all that a cooldown leaves to be seen."""
        dag_id = dag_id_of(name)
        begun = {entry.request.run_id for entry in snapshot.entries if entry.request}
        if all(run_id in begun for dag, run_id in situation.runs if dag == dag_id):
            return None
        spec = self._services.releases.spec_of(name)
        cooldown = cooldowns.cooldown_of(spec) if spec else cooldowns.DEFAULT_COOLDOWN
        until = None
        with suppress(Retryable):
            # While the controller is away nobody can say.
            until = cooldowns.cooldown_end(self._services, name, cooldown)
        return until if until and until > self._now() else None

    def _rollback(self, snapshot: ModelSnapshot) -> RollbackRow | None:
        """The newest, while it is worth a line."""
        if not snapshot.rollbacks or self._now() - snapshot.rollbacks[0].at > _OLD:
            return None
        row = self._rows.rollback(snapshot.rollbacks[0])
        return row if rollback_progress.is_shown(row, now=self._now()) else None

    def _still(self, name: str, snapshot: ModelSnapshot, back: RollbackRow | None) -> Iterator[Blocker]:
        """What keeps releases and rollbacks of the model from beginning or going on."""
        situation, held = self._rows.situation(), snapshot.held
        yield from blockers.of_model(
            name,
            situation,
            held_since=held.since if held else None,
            held_why=held.why if held else "",
            cools_until=self._cools_until(name, snapshot, situation),
        )
        if (note := snapshot.alias) and not held:
            yield Blocker(BlockerKind.ALIAS, note.words, note.way_out)
        if back and back.stands_still:
            yield Blocker(BlockerKind(back.stands_still), back.words, back.way_out)

    def _with_way_back(self, row: ModelRow, snapshot: ModelSnapshot) -> ModelRow:
        """What is warm comes back without its bundle; what is not, and has none any more, not at all."""
        version = row.can_return_to
        is_warm = any(e.rollout and e.rollout.phase in ("progressing", "watching") for e in snapshot.entries)
        if version is None or is_warm:
            return row
        is_there = any(e.version == version and has_bundle(self._services, e) for e in snapshot.entries)
        return row if is_there else replace(row, can_return_to=None)

    def _made(
        self, name: str, snapshot: ModelSnapshot, dag: ModelDag | None, route: Route | None
    ) -> ModelRow:
        active, queued, last = self._going(snapshot.active), self._going(snapshot.queued), snapshot.last
        left = [e for e in (snapshot.active, snapshot.queued) if e and e not in (active, queued)]
        # The newest that is over, also if only Airflow knows that it is.
        last = max([*left, *([last] if last else [])], key=lambda e: (e.at, e.id), default=None)
        queued = queued or self._beginning(snapshot)
        return ModelRow(
            name=name,
            description=dag.description if dag else "",
            serving=self._rows.serving(name, route),
            health=self._watch.of(route),
            active=self._rows.row(active) if active else None,
            queued=self._rows.row(queued) if queued else None,
            approval=self._rows.approval(active) if active else None,
            last=self._rows.row(last) if last else None,
            releases=len(snapshot.entries),
            can_return_to=_previous(snapshot, route),
        )

    def _going(self, entry: ReleaseEntry | None) -> ReleaseEntry | None:
        return entry if entry and self._rows.is_under_way(entry) else None

    def _beginning(self, snapshot: ModelSnapshot) -> ReleaseEntry | None:
        """A release that was just asked for: only Airflow knows yet that it is on its way."""
        newest = snapshot.entries[:3]
        return next((e for e in newest if self._rows.status_of(e)[0] is ReleaseStatus.QUEUED), None)


def _with_rollback(row: ModelRow, back: RollbackRow | None) -> ModelRow:
    return row if row.rollback == back else replace(row, rollback=back)


def _with_blockers(row: ModelRow, still: tuple[Blocker, ...]) -> ModelRow:
    return row if row.stands_still == still else replace(row, stands_still=still)


def has_bundle(services: Services, entry: ReleaseEntry) -> bool:
    """Whether the bundle that this release rolled out is still in the store."""
    bundle = entry.rollout.bundle_id if entry.rollout else ""
    return bool(bundle) and services.store.has_bundle(bundle)


def _is_idle(snapshot: ModelSnapshot) -> bool:
    """Whether nothing of it is on its way, nor could be without a file that says so."""
    return not any(e.status.is_under_way for e in snapshot.entries) and not any(
        e.status is ReleaseStatus.UNKNOWN for e in snapshot.entries[:3]
    )


def _is_wanted(row: ModelRow, only: str) -> bool:
    match only:
        case "under_way":
            return row.active is not None or row.queued is not None or is_rolling_back(row)
        case "waiting":
            return row.approval is not None
        case "unwell":
            return row.health.health in UNWELL
    return True


def is_rolling_back(row: ModelRow) -> bool:
    """Whether somebody asked for a rollback that has not come true."""
    return row.rollback is not None and row.rollback.returned_at is None


def _is_unreleased(row: ModelRow) -> bool:
    """A spec alone: nothing was ever asked for, nothing serves."""
    return not (row.serving or row.releases or row.active or row.queued)


def _urgency(row: ModelRow) -> int:
    if row.health.health in UNWELL:
        return 0
    if row.approval or is_rolling_back(row):
        return 1
    return 2 if row.active or row.queued else 3


def _previous(snapshot: ModelSnapshot, route: Route | None) -> int | None:
    """Where a rollback without a version goes, as `serving.control.rollbacks` finds it."""
    active = [
        e.rollout for e in snapshot.entries if e.rollout and e.rollout.phase in ("progressing", "watching")
    ]
    if active:
        return active[0].previous_version
    if route is None or route.stable is None:
        return None
    done = [e.rollout for e in snapshot.entries if e.rollout and e.rollout.phase == "done"]
    return next((m.previous_version for m in done if m.version == route.stable.version), None)

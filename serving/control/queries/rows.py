"""A release in a line: where it stands, by the files and by what Airflow and the freezes say of it now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime

from model_store.errors import Retryable
from serving.control import blockers
from serving.control.blockers import Blocker, ControllerReport, ReleaseFacts
from serving.control.freeze_enforcement import freezes_of
from serving.control.freezes import Frozen, longest, of_windows
from serving.control.queries import activity, rollback_progress
from serving.control.queries.cached import Cached, Refresher
from serving.control.queries.progress import plan_of
from serving.control.queries.runs import Question, Runs, Situation, by_run
from serving.control.queries.snapshots import ReleaseEntry, RollbackSnapshot
from serving.control.queries.statuses import ReleaseStatus
from serving.control.queries.traffic import Traffic
from serving.control.queries.views import PendingApproval, ReleaseRow, RollbackRow, ServingVersion
from serving.control.release_deployment import route_of
from serving.control.rollout.plan import Phase
from serving.control.wiring import Services
from serving.types import Outcome, Route

# What `standing` may tell otherwise than the files do.
_ASK_AIRFLOW = frozenset({ReleaseStatus.QUEUED, ReleaseStatus.PREPARING, ReleaseStatus.UNKNOWN})
# Those that have the model's lock, or the place in front of it.
_BY_LOCK = (ReleaseStatus.QUEUED, ReleaseStatus.PREPARING)
# What Airflow said of runs may be older than a request for one.
_NEWS_SECONDS = 10.0
# Since when it wrote nothing down: some times of what is usual, for pages may show what is a second old.
_SILENT_SECONDS = {Phase.PROGRESSING: 15.0, Phase.WATCHING: 40.0}
# It never got traffic.
_OVER = ReleaseStatus.BLOCKED
_DRY = "a dry run: traffic is not touched"
_LEFT = "its DAG run is over without having settled it; the next release of the model takes its place"
_SAID_NOTHING = "its DAG run is over, or deleted, and left no word of how it ended; it never got traffic"


class PageRows:
    """`now` tells the time in UTC, `monotonic` the machine's uptime in seconds."""

    def __init__(
        self,
        services: Services,
        runs: Runs,
        traffic: Traffic,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        refresher: Refresher | None = None,
    ) -> None:
        self._services = services
        self._traffic = traffic
        self._now = now
        self._questions = Cached(runs.questions, seconds=1.0, monotonic=monotonic, refresher=refresher)
        self._situation = Cached(runs.situation, seconds=1.0, monotonic=monotonic, refresher=refresher)
        self._people: tuple[list[Frozen], frozenset[str]] = ([], frozenset())
        self._freezes: Cached[tuple[list[Frozen], frozenset[str]]] = Cached(
            self._all_freezes, seconds=0.5, monotonic=monotonic, refresher=refresher
        )

    def freezes(self) -> list[Frozen]:
        """Those in force that hold all models, or one that somebody froze."""
        return self._freezes.get()[0]

    def serving(self, name: str, route: Route | None) -> tuple[ServingVersion, ...]:
        if route is None:
            return ()
        since = self._traffic.since(name)
        arms = [(route.stable, route.split.stable), (route.candidate, route.split.candidate)]
        return tuple(
            ServingVersion(arm.version, arm.bundle_id, weight, since.get(arm.version))
            for arm, weight in arms
            if arm and weight > 0
        )

    def row(self, entry: ReleaseEntry) -> ReleaseRow:
        status, why = self.status_of(entry)
        still = self._standstill(entry, status, why)
        request, rollout = entry.request, entry.rollout
        end = self._now() if status.is_under_way else entry.changed_at
        return ReleaseRow(
            id=entry.id,
            model=entry.model,
            version=entry.version,
            previous_version=rollout.previous_version if rollout else None,
            status=status,
            status_words=status.words,
            asked_at=entry.at,
            by=request.by if request else "",
            reason=request.reason if request else "",
            why=still.words if still else why,
            weight=self._weight(entry),
            step=rollout.step + 1 if rollout else 0,
            steps=rollout.steps if rollout else (),
            seconds=max(0.0, (end - entry.at).total_seconds()),
            changed_at=entry.changed_at,
            dry_run=bool(request and request.dry_run),
            plan=plan_of(rollout) if rollout else (),
            stands_still=still.kind if still else "",
            way_out=still.way_out if still else "",
        )

    def rollback(self, back: RollbackSnapshot) -> RollbackRow:
        """How far a rollback has come."""
        now = self._now()
        return rollback_progress.rollback_row(
            back,
            route=route_of(self._services, back.model),
            changes=self._traffic.between(back.model, back.at, now),
            situation=self._situation.get(),
            now=now,
        )

    def situation(self) -> Situation:
        """What of Airflow can keep releases from going on."""
        return self._situation.get()

    def _standstill(self, entry: ReleaseEntry, status: ReleaseStatus, why: str) -> Blocker | None:
        if not status.is_under_way:
            return None
        run = (entry.request.dag_id, entry.request.run_id) if entry.request else None
        seen = self._seen(entry) if status in (ReleaseStatus.ROLLING_OUT, ReleaseStatus.WATCHING) else None
        facts = ReleaseFacts(entry.id, entry.model, status, why, run, self._situation.get(), seen)
        return blockers.of_release(facts)

    def _seen(self, entry: ReleaseEntry) -> ControllerReport | None:
        """The controller's last word on a rollout; of one that began a moment ago there may be none yet."""
        if (rollout := entry.rollout) is None:
            return None
        record = self._services.journal.latest_record(entry.id)
        silent = (self._now() - (record.at if record else rollout.started_at)).total_seconds()
        hold = rollout.holds[rollout.step] if 0 <= rollout.step < len(rollout.holds) else 0.0
        findings = record.verdict.findings if record else ()
        return ControllerReport(
            silent_seconds=silent,
            is_silent=silent > _SILENT_SECONDS[Phase(rollout.phase)],
            overdue=blockers.overdue(rollout.changed_at, hold, at=self._now()),
            open_points="; ".join(one.reason for one in findings if one.outcome > Outcome.PASS),
        )

    def _weight(self, entry: ReleaseEntry) -> float:
        """Percent of the requests that this release's version gets now, by the route."""
        route = route_of(self._services, entry.model)
        if route is None:
            return 0.0
        arms = [(route.stable, route.split.stable), (route.candidate, route.split.candidate)]
        return sum(weight for arm, weight in arms if arm and arm.version == entry.version)

    def status_of(self, entry: ReleaseEntry) -> tuple[ReleaseStatus, str]:
        """Airflow alone knows that a release waits for people, and that the run of one that holds the model's
        lock is over: the lock is its own until another release passes it over.
        """
        if self._was_left(entry):
            return (
                (ReleaseStatus(entry.outcome.status), entry.outcome.reason)
                if entry.outcome
                else (_OVER, _LEFT)
            )
        if entry.status is ReleaseStatus.PREPARING and (question := _question(entry, self._asked_now())):
            who = ", ".join(question.who_may) or "anyone with the right"
            return ReleaseStatus.WAITING, f"waits for approval by {who}"
        if entry.status is ReleaseStatus.PREPARING and (frozen := self.holding(entry)):
            return ReleaseStatus.FROZEN, frozen.words
        if entry.status is ReleaseStatus.UNKNOWN:
            return self._by_airflow_alone(entry)
        return entry.status, entry.why

    def _by_airflow_alone(self, entry: ReleaseEntry) -> tuple[ReleaseStatus, str]:
        """No file says how it stands. Only a run that Airflow says is over has ended."""
        is_dry = bool(entry.request and entry.request.dry_run)
        if self._is_going(entry):
            return (ReleaseStatus.PREPARING, _DRY) if is_dry else (ReleaseStatus.QUEUED, "its run begins")
        if self._is_news(entry):
            return ReleaseStatus.QUEUED, "asked for a moment ago; its run begins"
        return (ReleaseStatus.DRY_RUN, _DRY) if is_dry else (_OVER, _SAID_NOTHING)

    def with_status(self, entries: Iterable[ReleaseEntry], wanted: str) -> tuple[ReleaseEntry, ...]:
        """Those that stand like that now; `wanted`: one of `Status`, or under_way."""
        return tuple(entry for entry in entries if _has(self._status(entry), wanted))

    def _status(self, entry: ReleaseEntry) -> ReleaseStatus:
        # Of ten thousand releases, files alone tell of most.
        return self.status_of(entry)[0] if entry.status in _ASK_AIRFLOW else entry.status

    def is_under_way(self, entry: ReleaseEntry) -> bool:
        """Whether it is, by Airflow too."""
        return entry.status.is_under_way and not self._was_left(entry)

    def _was_left(self, entry: ReleaseEntry) -> bool:
        is_known = entry.status in _BY_LOCK and entry.request is not None and not self._is_news(entry)
        return is_known and not self._is_going(entry)

    def _is_news(self, entry: ReleaseEntry) -> bool:
        """Whether Airflow may not have heard of it yet."""
        return (self._now() - entry.at).total_seconds() <= _NEWS_SECONDS

    def _is_going(self, entry: ReleaseEntry) -> bool:
        return (
            entry.request is not None
            and (entry.request.dag_id, entry.request.run_id) in self._situation.get().runs
        )

    def holding(self, entry: ReleaseEntry) -> Frozen | None:
        """The freeze for which a release waits, its spec's too, unless somebody let it pass."""
        windows = entry.request.windows if entry.request else ()
        asked_for, passing = self._freezes.get()
        if entry.id in passing:
            return None
        at = self._now()
        found = [one for one in asked_for if one.model in (None, entry.model)]
        found += of_windows(windows, "spec", entry.model, at)
        return longest(found, at=at) if found else None

    def _all_freezes(self) -> tuple[list[Frozen], frozenset[str]]:
        """Those in force for all models or some, and which releases may pass."""
        freezes, at = freezes_of(self._services), self._now()
        with suppress(Retryable):
            # As of before, while the controller is away.
            self._people = freezes.asked_for(at=at), frozenset(one.release_id for one in freezes.overrides())
        asked_for, passing = self._people
        return [*freezes.of_calendar(at), *asked_for], passing

    def approval(self, entry: ReleaseEntry) -> PendingApproval | None:
        question = _question(entry, self._asked_now())
        if question is None:
            return None
        return PendingApproval(
            release_id=entry.id,
            model=entry.model,
            version=entry.version,
            subject=question.subject,
            asked_at=question.asked_at,
            until=question.until,
            who_may=question.who_may,
            task_id=question.task_id,
            bundle_id=question.bundle_id,
            again=activity.asked_again(entry, question.bundle_id),
        )

    def _asked_now(self) -> dict[tuple[str, str], Question]:
        return dict(by_run(self._questions.get()))


def _has(status: ReleaseStatus, wanted: str) -> bool:
    return status.is_under_way if wanted == "under_way" else status == wanted


def _question(entry: ReleaseEntry, request: dict[tuple[str, str], Question]) -> Question | None:
    return request.get((entry.request.dag_id, entry.request.run_id)) if entry.request else None

"""A release in a line: where it stands, by the files and by what Airflow and the freezes say of it now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from serving.control import standstill
from serving.control.freezes import Frozen
from serving.control.freezing import freezes_of
from serving.control.queries import acts, rollbacks
from serving.control.queries.brief import Brief, Keeper
from serving.control.queries.progress import plan_of
from serving.control.queries.runs import Question, Runs, Situation, by_run
from serving.control.queries.shelf import Entry, WentBack
from serving.control.queries.statuses import Status
from serving.control.queries.traffic import Traffic
from serving.control.queries.views import Approval, ReleaseRow, RollbackRow, Serving
from serving.control.rolling import route_of
from serving.control.rollout.advance import FRESH_SECONDS
from serving.control.rollout.plan import Phase
from serving.control.standstill import Facts, Seen, Standstill
from serving.control.wiring import Services
from serving.types import Outcome, Route

# What `standing` may tell otherwise than the files do.
_ASK_AIRFLOW = frozenset({Status.QUEUED, Status.PREPARING, Status.UNKNOWN})
# Those that have the model's lock, or the place in front of it.
_BY_LOCK = (Status.QUEUED, Status.PREPARING)
# What Airflow said of runs may be older than a request for one.
_NEWS_SECONDS = 10.0
# Records are this much older at times without anything being wrong: pages may show what is a second old.
_MARGIN_SECONDS = 10.0
# It never got traffic.
_OVER = Status.BLOCKED
_DRY = "a dry run: traffic is not touched"
_LEFT = "its DAG run is over without having settled it; the next release of the model takes its place"
_SAID_NOTHING = "its DAG run is over, or deleted, and left no word of how it ended; it never got traffic"


class Rows:
    """`now` tells the time in UTC, `monotonic` the machine's uptime in seconds."""

    def __init__(
        self,
        services: Services,
        runs: Runs,
        traffic: Traffic,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        keeper: Keeper | None = None,
    ) -> None:
        self._services = services
        self._traffic = traffic
        self._now = now
        self._questions = Brief(runs.questions, seconds=1.0, monotonic=monotonic, keeper=keeper)
        self._situation = Brief(runs.situation, seconds=1.0, monotonic=monotonic, keeper=keeper)
        freezes = freezes_of(services)
        self._freezes = Brief(
            lambda: freezes.in_force(None, at=now()), seconds=0.5, monotonic=monotonic, keeper=keeper
        )

    def freezes(self) -> list[Frozen]:
        """Those in force that hold all models, or one that somebody froze."""
        return self._freezes.get()

    def serving(self, name: str, route: Route | None) -> tuple[Serving, ...]:
        if route is None:
            return ()
        since = self._traffic.since(name)
        arms = [(route.stable, route.split.stable), (route.candidate, route.split.candidate)]
        return tuple(
            Serving(arm.version, arm.bundle_id, weight, since.get(arm.version))
            for arm, weight in arms
            if arm and weight > 0
        )

    def row(self, entry: Entry) -> ReleaseRow:
        status, why = self.standing(entry)
        still = self._standstill(entry, status, why)
        asked, moved = entry.asked, entry.moved
        end = self._now() if status.is_under_way else entry.changed_at
        return ReleaseRow(
            id=entry.id,
            model=entry.model,
            version=entry.version,
            previous_version=moved.previous_version if moved else None,
            status=status,
            status_words=status.words,
            asked_at=entry.at,
            by=asked.by if asked else "",
            reason=asked.reason if asked else "",
            why=still.words if still else why,
            weight=self._weight(entry),
            step=moved.step + 1 if moved else 0,
            steps=moved.steps if moved else (),
            seconds=max(0.0, (end - entry.at).total_seconds()),
            changed_at=entry.changed_at,
            dry_run=bool(asked and asked.dry_run),
            plan=plan_of(moved) if moved else (),
            stands_still=still.kind if still else "",
            way_out=still.way_out if still else "",
        )

    def rollback(self, back: WentBack) -> RollbackRow:
        """How far a rollback has come."""
        now = self._now()
        return rollbacks.rollback_row(
            back,
            route=route_of(self._services, back.model),
            changes=self._traffic.between(back.model, back.at, now),
            situation=self._situation.get(),
            now=now,
        )

    def situation(self) -> Situation:
        """What of Airflow can keep releases from going on."""
        return self._situation.get()

    def _standstill(self, entry: Entry, status: Status, why: str) -> Standstill | None:
        if not status.is_under_way:
            return None
        run = (entry.asked.dag_id, entry.asked.run_id) if entry.asked else None
        seen = self._seen(entry) if status in (Status.ROLLING_OUT, Status.WATCHING) else None
        facts = Facts(entry.id, entry.model, status, why, run, self._situation.get(), seen)
        return standstill.of_release(facts)

    def _seen(self, entry: Entry) -> Seen | None:
        """The guard's last word on a rollout; of one that began a moment ago there may be none yet."""
        if (moved := entry.moved) is None:
            return None
        record = self._services.journal.latest_record(entry.id)
        silent = (self._now() - (record.at if record else moved.started_at)).total_seconds()
        hold = moved.holds[moved.step] if 0 <= moved.step < len(moved.holds) else 0.0
        findings = record.verdict.findings if record else ()
        return Seen(
            silent_seconds=silent,
            is_silent=silent > FRESH_SECONDS[Phase(moved.phase)] + _MARGIN_SECONDS,
            overdue=standstill.overdue(moved.changed_at, hold, at=self._now()),
            open_points="; ".join(one.reason for one in findings if one.outcome > Outcome.PASS),
        )

    def _weight(self, entry: Entry) -> float:
        """Percent of the requests that this release's version gets now, by the route."""
        route = route_of(self._services, entry.model)
        if route is None:
            return 0.0
        arms = [(route.stable, route.split.stable), (route.candidate, route.split.candidate)]
        return sum(weight for arm, weight in arms if arm and arm.version == entry.version)

    def standing(self, entry: Entry) -> tuple[Status, str]:
        """Airflow alone knows that a release waits for people, and that the run of one that holds the model's
        lock is over: the lock is its own until another release passes it over.
        """
        if self._was_left(entry):
            return (Status(entry.outcome.status), entry.outcome.reason) if entry.outcome else (_OVER, _LEFT)
        if entry.status is Status.PREPARING and (question := _question(entry, self._asked_now())):
            who = ", ".join(question.who_may) or "anyone with the right"
            return Status.WAITING, f"waits for approval by {who}"
        if entry.status is Status.PREPARING and (frozen := self.holding(entry)):
            return Status.FROZEN, frozen.words
        if entry.status is Status.UNKNOWN:
            return self._by_airflow_alone(entry)
        return entry.status, entry.why

    def _by_airflow_alone(self, entry: Entry) -> tuple[Status, str]:
        """No file says how it stands. Only a run that Airflow says is over has ended."""
        is_dry = bool(entry.asked and entry.asked.dry_run)
        if self._is_going(entry):
            return (Status.PREPARING, _DRY) if is_dry else (Status.QUEUED, "its run begins")
        if self._is_news(entry):
            return Status.QUEUED, "asked for a moment ago; its run begins"
        return (Status.DRY_RUN, _DRY) if is_dry else (_OVER, _SAID_NOTHING)

    def standing_so(self, entries: Iterable[Entry], wanted: str) -> tuple[Entry, ...]:
        """Those that stand like that now; `wanted`: one of `Status`, or under_way."""
        return tuple(entry for entry in entries if _has(self._status(entry), wanted))

    def _status(self, entry: Entry) -> Status:
        # Of ten thousand releases, files alone tell of most.
        return self.standing(entry)[0] if entry.status in _ASK_AIRFLOW else entry.status

    def is_under_way(self, entry: Entry) -> bool:
        """Whether it is, by Airflow too."""
        return entry.status.is_under_way and not self._was_left(entry)

    def _was_left(self, entry: Entry) -> bool:
        is_known = entry.status in _BY_LOCK and entry.asked is not None and not self._is_news(entry)
        return is_known and not self._is_going(entry)

    def _is_news(self, entry: Entry) -> bool:
        """Whether Airflow may not have heard of it yet."""
        return (self._now() - entry.at).total_seconds() <= _NEWS_SECONDS

    def _is_going(self, entry: Entry) -> bool:
        return (
            entry.asked is not None and (entry.asked.dag_id, entry.asked.run_id) in self._situation.get().runs
        )

    def holding(self, entry: Entry) -> Frozen | None:
        """The freeze for which a release waits, its spec's too, unless somebody let it pass."""
        windows = entry.asked.windows if entry.asked else ()
        if not windows and not any(one.model in (None, entry.model) for one in self._freezes.get()):
            return None
        return freezes_of(self._services).holding(entry.id, windows, at=self._now())

    def approval(self, entry: Entry) -> Approval | None:
        question = _question(entry, self._asked_now())
        if question is None:
            return None
        return Approval(
            release_id=entry.id,
            model=entry.model,
            version=entry.version,
            subject=question.subject,
            asked_at=question.asked_at,
            until=question.until,
            who_may=question.who_may,
            task_id=question.task_id,
            bundle_id=question.bundle_id,
            again=acts.asked_again(entry, question.bundle_id),
        )

    def _asked_now(self) -> dict[tuple[str, str], Question]:
        return dict(by_run(self._questions.get()))


def _has(status: Status, wanted: str) -> bool:
    return status.is_under_way if wanted == "under_way" else status == wanted


def _question(entry: Entry, asked: dict[tuple[str, str], Question]) -> Question | None:
    return asked.get((entry.asked.dag_id, entry.asked.run_id)) if entry.asked else None

"""A home as years of releases leave it: models, releases that ended well and badly, and some under way.

For the page's benchmark and tests. Rows and files are written as Slipway writes them.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from model_store.release_spec import ReleaseSpec
from serving.control.analysis import AnalysisPolicy
from serving.control.queries import outcomes
from serving.control.queries.outcomes import ReleaseOutcome
from serving.control.rollout.journal import TimelineEvent, row_of_state
from serving.control.rollout.lock import Claim, ReleaseLock
from serving.control.rollout.plan import Phase, RolloutPlan, RolloutState, RolloutStep
from serving.control.rollout.record import EndpointCounts, Record
from serving.figures import percent
from serving.gateway.router.kept import row_of
from serving.home import Home
from serving.ledger import rows
from serving.ledger.base import ImportedFile, Ledger
from serving.metrics.latency import bucket_of
from serving.types import (
    ALL_STABLE,
    Counts,
    Deployment,
    DeploymentRef,
    Endpoint,
    Finding,
    Outcome,
    Route,
    Slot,
    TrafficSplit,
    Verdict,
)

PLAN = RolloutPlan(
    strategy="canary",
    steps=tuple(RolloutStep(TrafficSplit(100 - w, w), 60.0) for w in (5.0, 25.0, 50.0, 100.0)),
    max_step_seconds=3600,
    watch_seconds=3600,
    policy=AnalysisPolicy(
        alpha=0.001,
        max_error_rate=0.01,
        error_tolerance=0.005,
        latency_objective_ms=250,
        max_slow_share=0.02,
        min_requests=50,
    ),
)
# What a candidate that is taken out answers in each second of its last step: (requests, failures).
FAILS = ((0, 0), (1, 0), (1, 1), (1, 0), (2, 1), (1, 1), (2, 1), (1, 1))
WHY = (
    "candidate failed 5 of 9 requests (56%), stable 0 of 599 (0%), tolerance 0.5%: "
    "by chance at most once in 2,000 releases"
)
SOURCE = "two-sample e-process: Turner, Ly, Gruenwald 2024 (arXiv 2106.02693); Ville's inequality"
PEOPLE = ("amina", "bo", "chandra", "dmitri", "airflow (asset_triggered)")
REASONS = ("better recall on small loans", "weekly retraining", "the registry names it", "fixes the drift")


@dataclass
class ModelFiles:
    """One model's releases as they are written. `at` is when the next one is asked for."""

    home: Home
    ledger: Ledger
    model: str
    spec: dict[str, object]
    chance: random.Random
    at: datetime
    serving: int | None = None
    before: int | None = None
    dry_run: bool = False

    def release(self, version: int, end: str) -> str:
        """One release. `end`: promoted, rolled_back (_later: in its watch), blocked, superseded, or where it
        stands now; `asked`: no file says more than that it was asked for."""
        name = f"{self.model}-v{version}-{self.at:%Y%m%dT%H%M%SZ}"
        self._ask(name, version)
        if end in ("promoted", "rolled_back", "rolled_back_later", "rolling_out", "watching", "paused"):
            self._roll(name, version, end)
        if end in ("promoted", "rolled_back", "rolled_back_later", "blocked", "superseded"):
            self._outcome(name, end.removesuffix("_later"))
        if end in ("preparing", "rolling_out", "watching", "paused"):
            self._lock(name)
        if end == "promoted":
            self.before, self.serving = self.serving, version
        return name

    def deployment(self, version: int) -> Deployment:
        slot = Slot.BLUE if version % 2 else Slot.GREEN
        port = 30_000 + hash_of(self.model) % 20_000 + version % 2
        bundle = f"{hash_of(self.model) * 1000 + version:024x}"
        return Deployment(DeploymentRef(self.model, slot, bundle, version), (Endpoint("127.0.0.1", port),))

    def write_route(self, split: TrafficSplit, candidate: int | None, *, revision: int) -> Route:
        stable = self.deployment(self.serving) if self.serving else None
        other = self.deployment(candidate) if candidate else None
        route = Route(self.model, revision, split, stable, other)
        before = self.ledger.find(rows.RouteRow, service=self.model)
        generation = before[0].generation if before else 0
        self.ledger.save(replace(row_of(route, at=self.at), generation=generation))
        return route

    def _ask(self, name: str, version: int) -> None:
        request: dict[str, Any] = {
            "dag_id": f"release_{self.model}",
            "run_id": f"manual__{self.at.isoformat()}",
            "at": self.at.isoformat(),
            "version": str(version),
            "reason": self.chance.choice(REASONS),
            "by": self.chance.choice(PEOPLE),
            "dry_run": self.dry_run,
        }
        saved = {"schema": 1, "id": name, "model": self.model, "version": version, "request": request}
        put(
            self.ledger,
            rows.ReleaseRecord(
                id=name,
                model=self.model,
                version=version,
                requested_at=self.at,
                requested_by=request["by"],
                document={**saved, "spec": self.spec},
            ),
        )

    def _roll(self, name: str, version: int, end: str) -> None:
        state, events = self._state(name, version, end)
        row = row_of_state(state, changed_at=events[-1].at, generation=state.generation + 1)
        happened = [rows.EventRow(release_id=name, **asdict(event)) for event in events]
        if known := self.ledger.find(rows.RolloutRow, release_id=name):
            told = len(self.ledger.find(rows.EventRow, release_id=name))
            self.ledger.save(
                replace(row, generation=known[0].generation), *happened[min(told, len(happened) - 1) :]
            )
        else:
            self.ledger.adopt(ImportedFile(name, ""), [row, *happened])
        changes = []
        for revision, event in enumerate(events, start=version * 10):
            weight = event.candidate_weight
            stable = self.deployment(self.serving) if self.serving else None
            split = TrafficSplit(100 - weight, weight)
            route = Route(self.model, revision, split, stable, self.deployment(version))
            changes.append(rows.RouteChangeRow.of(replace(row_of(route, at=event.at), generation=revision)))
        self.ledger.save(*changes)
        if end != "promoted":
            self._records(state, events)
        if end in ("rolling_out", "paused", "watching"):
            self.write_route(state.split, version, revision=version * 10 + len(events))

    def _state(self, name: str, version: int, end: str) -> tuple[RolloutState, list[TimelineEvent]]:
        began = self.at + timedelta(seconds=90)
        reached = {"rolling_out": 2, "paused": 3, "rolled_back": 1}.get(end, 4)
        events = [TimelineEvent(began, "started", "in slot green", 0)]
        for step in range(reached):
            shifted = began + timedelta(seconds=5 + 65 * step)
            events.append(
                TimelineEvent(shifted, "shift", f"step {step + 1} of 4", PLAN.steps[step].split.candidate)
            )
        state = RolloutState(
            release_id=name,
            service=self.model,
            version=version,
            previous_version=self.serving,
            plan=PLAN,
            step=reached - 1,
            step_started_at=events[-1].at,
            phase=Phase.PROGRESSING,
            generation=len(events) - 1,
            deployment_id=self.deployment(version).id,
            started_at=began,
            route_revision=version * 10 + reached,
        )
        last = events[-1].at + timedelta(seconds=40)
        match end:
            case "paused":
                return replace(state, paused="by bo: the campaign begins at noon"), events
            case "rolled_back" | "rolled_back_later":
                if end == "rolled_back_later":
                    events.append(TimelineEvent(last, "promoted", f"version {version}", 100))
                last = events[-1].at + timedelta(seconds=len(FAILS))
                events.append(TimelineEvent(last, "rolled back", WHY, 0))
                finding = Finding("error rate against stable", Outcome.FAIL, WHY, source=SOURCE)
                over = state.with_phase(Phase.ROLLED_BACK, at=last, reason=WHY, findings=(finding,))
                return over, events
            case "promoted":
                events.append(TimelineEvent(last, "promoted", f"version {version}", 100))
                events.append(
                    TimelineEvent(last + timedelta(seconds=3600), "done", "the watch ended well", 100)
                )
                return state.with_phase(Phase.DONE, at=events[-1].at, reason="the watch ended well"), events
            case "watching":
                events.append(TimelineEvent(last, "promoted", f"version {version}", 100))
                return state.with_phase(Phase.WATCHING, at=last, reason="passed every step"), events
        return state, events

    def _records(self, state: RolloutState, events: list[TimelineEvent]) -> None:
        """One a second, as the controller writes them, for what the rollout has seen so far."""
        is_over = state.phase is Phase.ROLLED_BACK
        stable = candidate = Counts(0, 0, 0, 0.0)
        times: tuple[dict[int, int], dict[int, int]] = ({}, {})
        lines = []
        stand = EndpointCounts(0, 0, 0, 0, 0)
        whole = int((events[-1].at - events[0].at).total_seconds()) + (0 if is_over else 30)
        for second in range(whole):
            at = events[0].at + timedelta(seconds=second)
            place, weight = _where(events, at)
            left = whole - second
            fails = FAILS[-left] if is_over and left <= len(FAILS) else None
            had = stable, candidate
            candidate += Counts(*fails, 0, 1.0) if fails else self._counts(0 if is_over else weight)
            stable += Counts(46 + (not second), 0, 0, 1.0) if is_over else self._counts(100 - weight)
            for arm, before, now in ((0, had[0], stable), (1, had[1], candidate)):
                self._time(times[arm], now.requests - before.requests)
            record = Record(
                at=at,
                monotonic=float(second),
                place=place,
                share=weight / 100,
                settled=True,
                retries_on_stable=True,
                step_seconds=float(second % 65),
                stable=stable,
                candidate=candidate,
                raw=dict.fromkeys(self.deployment(state.version).endpoints, stand),
                verdict=_verdict(stable, candidate, at),
                latency=(dict(times[0]), dict(times[1])) if second % 5 == 4 else None,
            )
            lines.append(
                rows.ObservationRow(
                    release_id=state.release_id, at=at, place=place, document=record.to_json()
                )
            )
        self.ledger.observe(*lines)

    def _time(self, buckets: dict[int, int], answers: int) -> None:
        """About 4 ms each."""
        for _ in range(answers):
            number = bucket_of(self.chance.lognormvariate(1.4, 0.4))
            buckets[number] = buckets.get(number, 0) + 1

    def _counts(self, weight: float) -> Counts:
        requests = int(weight / 100 * self.chance.randint(40, 60))
        errors = sum(self.chance.random() < 0.002 for _ in range(requests))
        slow = sum(self.chance.random() < 0.004 for _ in range(requests))
        malformed = sum(self.chance.random() < 0.01 for _ in range(requests - errors))
        return Counts(requests, errors, slow, 1.0, malformed=malformed)

    def _outcome(self, name: str, end: str) -> None:
        reasons = {
            "promoted": "the watch ended well",
            "rolled_back": "the candidate failed too often",
            "superseded": f"superseded by a newer release of {self.model}",
            "blocked": "gate: no candidate kept every limit: int8 missed accuracy non-inferiority",
        }
        at = self.at + timedelta(seconds=400)
        url = "http://127.0.0.1:8481/#/experiments/1/runs/1"
        outcomes.save(self.ledger, ReleaseOutcome(name, end, reasons[end], at, evidence_url=url))

    def _lock(self, name: str) -> None:
        lock = ReleaseLock(self.ledger)
        if holder := lock.read(self.model).holder:
            lock.release(self.model, holder.release_id)
        lock.acquire(self.model, Claim(self.at, name))


def seed(
    home: Home,
    ledger: Ledger,
    spec: ReleaseSpec,
    *,
    models: int,
    releases: int,
    now: datetime,
    names: tuple[str, ...] = (),
) -> list[str]:
    """Write it all; returns the models' names. Every tenth model has a release under way."""
    chance = random.Random(0)
    called = [*names, *(f"model_{number:03}" for number in range(models - len(names)))]
    each = max(1, releases // models)
    for number, model in enumerate(called):
        saved = {**spec.model_dump(mode="json"), "model": model}
        shelf = ModelFiles(home, ledger, model, saved, chance, now - timedelta(hours=8 * each + number % 7))
        for version in range(1, each):
            shelf.at += timedelta(hours=8)
            ends = ("promoted", "rolled_back", "blocked", "superseded")
            shelf.release(version, chance.choices(ends, (85, 8, 5, 2))[0] if version > 1 else "promoted")
        shelf.at = now - timedelta(minutes=5, seconds=number % 60)
        # One that is being built would be over: no run of Airflow's goes on with it.
        under_way = ("rolling_out", "watching", "paused")[number // 10 % 3]
        shelf.write_route(ALL_STABLE, None, revision=each * 10)
        shelf.release(each, under_way if number % 10 == 0 else "blocked")
    return called


def hash_of(text: str) -> int:
    """The same in every process, unlike `hash`."""
    return int(sum(ord(letter) * 31**place for place, letter in enumerate(text))) % 1_000_003


def put(ledger: Ledger, row: rows.Kept) -> None:
    """Over whatever there is with its key."""
    known = ledger.find(type(row), **{row.KEY: row.key})
    ledger.save(replace(row, generation=known[0].generation if known else 0))


def _where(events: list[TimelineEvent], at: datetime) -> tuple[int, float]:
    past = [event for event in events if event.at <= at]
    return len(past) - 1, past[-1].candidate_weight


def _verdict(stable: Counts, candidate: Counts, at: datetime) -> Verdict:
    share = candidate.errors / max(candidate.requests, 1)
    findings = (
        Finding(
            "error rate against stable",
            Outcome.PASS,
            f"candidate failed {candidate.errors} of {candidate.requests} requests ({percent(share)}), "
            f"stable {stable.errors} of {stable.requests:,}, tolerance 0.5%: no sign of harm",
            source=SOURCE,
        ),
        Finding(
            "requests",
            Outcome.PASS if candidate.requests >= 50 else Outcome.INCONCLUSIVE,
            f"the candidate answered {candidate.requests} of the 50 requests a step needs",
        ),
    )
    return Verdict.of(findings, at=at)

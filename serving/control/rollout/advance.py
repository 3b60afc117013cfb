"""Moves releases on, one look at a time. Airflow calls `advance` every few seconds; the guard never does."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from model_store.errors import Retryable
from serving.control.rollout import apply
from serving.control.rollout.decide import Observation, decide
from serving.control.rollout.from_spec import first_plan_of
from serving.control.rollout.instant import Instant, boot_id
from serving.control.rollout.journal import Journal, StaleState, TimelineEvent, UnknownRelease
from serving.control.rollout.plan import (
    Action,
    Finish,
    Hold,
    Phase,
    Promote,
    Rollback,
    RolloutPlan,
    RolloutState,
    Shift,
)
from serving.control.rollout.record import Record
from serving.gateway.router.base import StaleRoute, TrafficRouter, UnknownService
from serving.types import ALL_STABLE, Deployment, Finding, Outcome, Route, RouteSettings, Verdict

# By `RolloutState.pace`: the guard writes every second while a release progresses, every ten while it is
# watched or paused.
FRESH_SECONDS = {Phase.PROGRESSING: 5.0, Phase.WATCHING: 30.0}
_ATTEMPTS = 5


class Rollouts:
    """All releases of one installation: their journal and their routes.

    `now` tells the time, in UTC; `monotonic` the machine's uptime in seconds, which no clock change moves;
    `boot` names the start of the machine that it counts from.
    """

    def __init__(
        self,
        journal: Journal,
        router: TrafficRouter,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
        boot: Callable[[], str] = boot_id,
    ) -> None:
        self._journal = journal
        self._router = router
        self._now = now
        self._monotonic = monotonic
        self._boot = boot

    def start(
        self, release_id: str, plan: RolloutPlan, candidate: Deployment, settings: RouteSettings
    ) -> RolloutState:
        """Put a ready, warm candidate into the route at weight 0. Repeating it changes nothing.

        A release of the same service that is still watched is finished early; one that is still
        progressing raises `Retryable`.
        """
        try:
            return self._journal.load(release_id)
        except UnknownRelease:
            self._end_watch_of_others(candidate.service)
        route = self._with_candidate(candidate, settings)
        now = self._moment()
        state = _new_state(release_id, plan, candidate, route, at=now.at).begun(now)
        return self._journal.create(state, TimelineEvent(now.at, "started", f"in slot {candidate.slot}", 0))

    def advance(self, release_id: str) -> tuple[RolloutState, Action]:
        """One look: decide on the guard's latest record and carry it out. Safe to repeat and to run twice."""
        for _ in range(_ATTEMPTS):
            state = self._journal.load(release_id)
            if state.phase.is_final:
                return state, Hold(f"{state.phase}: {state.reason}")
            try:
                return self._advance(state)
            except (StaleState, StaleRoute):
                continue
        raise Retryable(f"{release_id} keeps changing", remedy="try again", delay_seconds=1)

    def roll_back(self, release_id: str, *, reason: str, findings: tuple[Finding, ...] = ()) -> RolloutState:
        """All traffic to stable now. A release that is over stays as it is."""
        state = self._journal.load(release_id)
        return apply.roll_back(
            state, self._journal, self._router, at=self._now(), reason=reason, findings=findings
        )

    def finish_watch(self, release_id: str, *, reason: str = "the watch was ended early") -> RolloutState:
        """Make a promoted candidate stable now, before its watch time is over."""
        state = self._journal.load(release_id)
        if state.phase is not Phase.WATCHING:
            return state
        route = self._router.read(state.service)
        if settled := self._complete(state, route):
            return settled
        return apply.finish(state, route, self._journal, self._router, at=self._now(), reason=reason)

    def withdraw(self, release_id: str) -> Route:
        """Take a rolled-back candidate out of the route, so that its pods can be retired."""
        state = self._journal.load(release_id)
        for _ in range(_ATTEMPTS):
            route = self._router.read(state.service)
            if state.phase is not Phase.ROLLED_BACK or not apply.holds_candidate(state, route):
                # It may have been taken out by a call that could not write what follows from it.
                self._router.reconcile()
                return route
            try:
                return self._router.write(
                    state.service, ALL_STABLE, stable=route.stable, candidate=None, at=route.revision
                )
            except StaleRoute:
                continue
        raise Retryable(f"the route of {state.service} keeps changing", remedy="try again", delay_seconds=1)

    def _advance(self, state: RolloutState) -> tuple[RolloutState, Action]:
        route = self._router.read(state.service)
        if settled := self._complete(state, route):
            return settled, Hold(settled.reason)
        action = decide(state, self._observation(state))
        return self._carry_out(action, state, route), action

    def _carry_out(self, action: Action, state: RolloutState, route: Route) -> RolloutState:
        now = self._moment()
        at = now.at
        match action:
            case Shift(step):
                return apply.shift(step, state, route, self._journal, self._router, now=now)
            case Promote():
                return apply.promote(state, self._journal, now=now)
            case Finish():
                why = "the watch ended well"
                return apply.finish(state, route, self._journal, self._router, at=at, reason=why)
            case Rollback(findings):
                why = "; ".join(finding.reason for finding in findings)
                return apply.roll_back(
                    state, self._journal, self._router, at=at, reason=why, findings=findings
                )
            case Hold():
                return state

    def _complete(self, state: RolloutState, route: Route) -> RolloutState | None:
        """Finish what a crash left half done, or book what somebody else did to the route."""
        at = self._now()
        if apply.has_become_stable(state, route):
            why = "the watch ended well"
            return apply.finish(state, route, self._journal, self._router, at=at, reason=why)
        if apply.holds_candidate(state, route):
            if route.split == state.split:
                return None
            if route.revision == state.route_revision:
                apply.apply_split(state, route, self._router)
                return state
        why = "its traffic was taken away"
        return apply.roll_back(state, self._journal, self._router, at=at, reason=why)

    def _observation(self, state: RolloutState) -> Observation:
        now = self._now()
        record = self._journal.latest_record(state.release_id)
        waited = state.waited(self._moment())
        silent = self._age(record) if record else waited
        if record is None or silent > FRESH_SECONDS[state.pace]:
            unseen = _unseen(now, Outcome.ERROR, "the guard is silent")
            return Observation(unseen, 0, waited, silent_seconds=silent)
        if record.place != state.place:
            return Observation(_unseen(now, Outcome.INCONCLUSIVE, "the guard has not looked yet"), 0, 0)
        return Observation(record.verdict, record.step_seconds, record.step_seconds)

    def _moment(self) -> Instant:
        return Instant(self._now(), self._monotonic(), self._boot())

    def _age(self, record: Record) -> float:
        """In seconds. The wall's clock is asked only where the machine was started anew since."""
        now = self._moment()
        by_wall = abs((now.at - record.at).total_seconds())
        by_uptime = abs(now.uptime - record.monotonic)
        if not record.boot:
            return min(by_wall, by_uptime)
        return by_uptime if record.boot == now.boot else by_wall

    def _with_candidate(self, candidate: Deployment, settings: RouteSettings) -> Route:
        route = self._route_or_none(candidate.service)
        if route and _is_candidate(route, candidate) and route.settings == settings:
            self._router.reconcile()
            return self._router.move(candidate)
        stable = route.stable if route else None
        at = route.revision if route else 0
        self._router.write(
            candidate.service, ALL_STABLE, stable=stable, candidate=candidate, at=at, settings=settings
        )
        return self._router.move(candidate)

    def _route_or_none(self, service: str) -> Route | None:
        try:
            return self._router.read(service)
        except UnknownService:
            return None

    def _end_watch_of_others(self, service: str) -> None:
        for other in self._journal.releases(service):
            if other.phase is Phase.WATCHING:
                self.finish_watch(other.release_id, reason="a newer release began")
            elif other.phase is Phase.PROGRESSING:
                raise Retryable(
                    f"{other.release_id} of {service} is still rolling out",
                    remedy="wait for it, or roll it back",
                    delay_seconds=10,
                )


def _new_state(
    release_id: str, plan: RolloutPlan, candidate: Deployment, route: Route, *, at: datetime
) -> RolloutState:
    return RolloutState(
        release_id=release_id,
        service=candidate.service,
        version=candidate.version,
        previous_version=route.stable.version if route.stable else None,
        plan=plan if route.stable else first_plan_of(plan),
        step=-1,
        step_started_at=at,
        phase=Phase.PROGRESSING,
        generation=0,
        deployment_id=candidate.id,
        started_at=at,
        route_revision=route.revision,
    )


def _is_candidate(route: Route, deployment: Deployment) -> bool:
    return route.candidate is not None and route.candidate.ref == deployment.ref


def _unseen(at: datetime, outcome: Outcome, reason: str) -> Verdict:
    return Verdict.of([Finding("observation", outcome, reason)], at=at)

"""Moves releases on, one look at a time: the controller calls `advance` with what it has just seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from model_store.errors import Retryable
from serving.control.rollout import apply
from serving.control.rollout.decide import Observation, decide
from serving.control.rollout.from_spec import first_plan_of
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
from serving.gateway.router.base import StaleRoute, TrafficRouter, UnknownService
from serving.types import ALL_STABLE, Deployment, Finding, Route, RouteSettings

_ATTEMPTS = 5


class Rollouts:
    """All releases of one installation: their journal and their routes. `now` tells the time, in UTC."""

    def __init__(self, journal: Journal, router: TrafficRouter, *, now: Callable[[], datetime]) -> None:
        self._journal = journal
        self._router = router
        self._now = now

    def start(
        self,
        release_id: str,
        plan: RolloutPlan,
        candidate: Deployment,
        settings: RouteSettings,
        *,
        unproven: bool = False,
    ) -> RolloutState:
        """Put a ready, warm candidate into the route at weight 0. Repeating it changes nothing.

        `unproven`: it stays there until `proven` is called.

        A release of the same service that is still watched is finished early; one that is still
        progressing raises `Retryable`.
        """
        try:
            return self._journal.load(release_id)
        except UnknownRelease:
            self._end_watch_of_others(candidate.service)
        route = self._with_candidate(candidate, settings)
        at = self._now()
        state = _new_state(release_id, plan, candidate, route, at=at)
        state = replace(state, unproven=unproven)
        return self._journal.create(state, TimelineEvent(at, "started", f"in slot {candidate.slot}", 0))

    def read(self, release_id: str) -> RolloutState:
        """Where the release stands. Raises `UnknownRelease`."""
        return self._journal.load(release_id)

    def advance(
        self, state: RolloutState, route: Route, observation: Observation
    ) -> tuple[RolloutState, Action]:
        """Decide on what was seen of a release and carry that out. Safe to repeat and to run twice.

        `state` and `route` are what was looked at. Raises `StaleState` or `StaleRoute` if somebody was
        faster: then the next look decides.
        """
        if not is_in_force(state, route):
            return self.mend(state.release_id)
        action = decide(state, observation)
        return self.carry_out(action, state, route), action

    def mend(self, release_id: str) -> tuple[RolloutState, Hold]:
        """Finish what a crash left half done, or book what somebody else did to the route."""
        state = self._journal.load(release_id)
        if not state.phase.is_final:
            state = self._complete(state, self._router.read(state.service)) or state
        return state, Hold(state.reason or "it has just changed")

    def roll_back(self, release_id: str, *, reason: str, findings: tuple[Finding, ...] = ()) -> RolloutState:
        """All traffic to stable now. A release that is over stays as it is."""
        state = self._journal.load(release_id)
        return apply.roll_back(
            state, self._journal, self._router, at=self._now(), reason=reason, findings=findings
        )

    def proven(self, release_id: str, *, reason: str) -> RolloutState:
        """Its answers through the gateway are the gates': it may be given requests. May be repeated."""
        for _ in range(_ATTEMPTS):
            state = self._journal.load(release_id)
            if state.phase.is_final or not state.unproven:
                return state
            try:
                event = TimelineEvent(self._now(), "answers compared", reason, 0)
                return self._journal.save(replace(state, unproven=False), event)
            except StaleState:
                continue
        raise Retryable(f"{release_id} keeps changing", remedy="try again", delay_seconds=1)

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

    def carry_out(self, action: Action, state: RolloutState, route: Route) -> RolloutState:
        """Raises `StaleState` or `StaleRoute` where others were faster; a rollback never minds them."""
        at = self._now()
        match action:
            case Shift(step):
                return apply.shift(step, state, route, self._journal, self._router, at=at)
            case Promote():
                return apply.promote(state, self._journal, at=at)
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
        """None where the route says what the state says."""
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


def is_in_force(state: RolloutState, route: Route) -> bool:
    """Whether the route says what the state says."""
    return apply.holds_candidate(state, route) and route.split == state.split


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

"""Carries an action out: first what was decided, then traffic. Every function may be repeated.

A shift saves its state before it writes the route, and a rollback writes the route before and after it saves
its state. So of a shift and a rollback at the same time the rollback wins, whichever of the four writes comes
first, and a crash between any two of them is mended by the controller's next look.

A full disk, or a ledger that cannot be reached, takes no state, but traffic still goes back
(`serving.gateway.router.kept`); the state follows.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from model_store.errors import Retryable
from model_store.unwritable import Unwritable
from serving.control.rollout.journal import Journal, StaleState, TimelineEvent
from serving.control.rollout.plan import Phase, RolloutState
from serving.gateway.router.base import StaleRoute, TrafficRouter
from serving.types import ALL_STABLE, Finding, Route

_ATTEMPTS = 100


class NotRecorded(Retryable):
    """Users are at stable, and the release does not say so yet."""


def shift(
    step: int, state: RolloutState, route: Route, journal: Journal, router: TrafficRouter, *, at: datetime
) -> RolloutState:
    """Give the candidate the weight of `step`. Raises `StaleState` or `StaleRoute` if others were faster."""
    decided = replace(
        state.left_alone(), step=step, step_started_at=at, route_revision=route.revision, reason=""
    )
    weight = decided.split.candidate
    event = TimelineEvent(at, "shift", f"step {step + 1} of {len(state.plan.steps)}", weight)
    saved = journal.save(decided, event)
    apply_split(saved, route, router)
    return saved


def apply_split(state: RolloutState, route: Route, router: TrafficRouter) -> None:
    """Make the route say what the state says, if it does not yet."""
    if route.split != state.split:
        router.write(
            state.service, state.split, stable=route.stable, candidate=route.candidate, at=route.revision
        )


def promote(state: RolloutState, journal: Journal, *, at: datetime) -> RolloutState:
    """The candidate passed at all traffic: from now on it is only watched."""
    watching = state.with_phase(Phase.WATCHING, at=at, reason="passed every step")
    return journal.save(
        watching, TimelineEvent(at, "promoted", f"version {state.version}", state.split.candidate)
    )


def finish(
    state: RolloutState, route: Route, journal: Journal, router: TrafficRouter, *, at: datetime, reason: str
) -> RolloutState:
    """The candidate becomes stable. The route first: a state that said so too early loses the way back.

    So with all that follows from the route: once it is done, the previous version's pods are retired.
    """
    if holds_candidate(state, route):
        router.write(state.service, ALL_STABLE, stable=route.candidate, candidate=None, at=route.revision)
    router.reconcile()
    done = state.with_phase(Phase.DONE, at=at, reason=reason)
    return journal.save(done, TimelineEvent(at, "done", reason, 0))


def roll_back(
    state: RolloutState,
    journal: Journal,
    router: TrafficRouter,
    *,
    at: datetime,
    reason: str,
    findings: tuple[Finding, ...] = (),
) -> RolloutState:
    """All traffic to stable, whatever others write meanwhile. A release that is over stays as it is."""
    route = return_traffic(state, router)
    try:
        return record_rollback(state, route, journal, router, at=at, reason=reason, findings=findings)
    except (StaleState, StaleRoute):
        raise
    except (OSError, Unwritable, Retryable) as problem:
        raise NotRecorded(
            f"{state.release_id} is not rolled back yet: all its traffic is at stable, "
            f"but that could not be written down: {problem}",
            remedy="make space on the disk, or let the ledger be reached; the release is then rolled back by "
            "its next look, or do it again",
        ) from problem


def record_rollback(
    state: RolloutState,
    route: Route,
    journal: Journal,
    router: TrafficRouter,
    *,
    at: datetime,
    reason: str,
    findings: tuple[Finding, ...] = (),
) -> RolloutState:
    """Save what `return_traffic` did; `route` is what it returned."""
    if has_become_stable(state, route):
        return journal.load(state.release_id)
    over = _save_rolled_back(state, journal, at=at, reason=reason, findings=findings)
    if over.phase is Phase.ROLLED_BACK:
        return_traffic(state, router)
    return over


def return_traffic(state: RolloutState, router: TrafficRouter) -> Route:
    """Write the route at weight 0, even if it is there: a shift decided on the old revision must fail.

    Where that cannot be written, weight 0 is enough for now: whoever saves the state afterwards calls again.
    """
    for _ in range(_ATTEMPTS):
        route = router.read(state.service)
        if not holds_candidate(state, route):
            return route
        try:
            return router.write(
                state.service, ALL_STABLE, stable=route.stable, candidate=route.candidate, at=route.revision
            )
        except StaleRoute:
            continue
        except OSError:
            route = router.read(state.service)
            if holds_candidate(state, route) and route.split.candidate > 0:
                raise
            return route
    raise StaleRoute(
        f"the route of {state.service} changed {_ATTEMPTS} times while it was rolled back",
        remedy="find out who writes it, and roll back again",
    )


def holds_candidate(state: RolloutState, route: Route) -> bool:
    """Whether the route's candidate is this release's."""
    return route.candidate is not None and route.candidate.id == state.deployment_id


def has_become_stable(state: RolloutState, route: Route) -> bool:
    """Whether the roles have been swapped already."""
    return (
        not holds_candidate(state, route)
        and route.stable is not None
        and route.stable.id == state.deployment_id
    )


def _save_rolled_back(
    state: RolloutState, journal: Journal, *, at: datetime, reason: str, findings: tuple[Finding, ...]
) -> RolloutState:
    for _ in range(_ATTEMPTS):
        if state.phase.is_final:
            return state
        rolled_back = state.with_phase(Phase.ROLLED_BACK, at=at, reason=reason, findings=findings)
        try:
            return journal.save(rolled_back, TimelineEvent(at, "rolled back", reason, 0))
        except StaleState:
            state = journal.load(state.release_id)
    raise StaleState(
        f"{state.release_id} changed {_ATTEMPTS} times while it was rolled back",
        remedy="find out who saves it, and roll back again",
    )

"""What follows from an alert that asks for a rollback: one rollback, or words for people. Decides only.

An alert knows a model, not a cause. It changes what serves only if a release may be the cause, and only once:
what goes wrong again soon after a rollback was not the release's fault, and goes to people.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from model_store.errors import Permanent
from serving.control import cooldowns
from serving.control.release_deployment import route_of
from serving.control.rollbacks import bundle_of
from serving.control.rollout.plan import Phase, RolloutState
from serving.control.wiring import Services
from serving.monitoring.incidents import Incident

# Clocks of two machines.
SKEW = timedelta(minutes=5)
# An alert that began before the last rollback, or right after it, may speak of what was rolled back.
AFTERGLOW = timedelta(minutes=1)
PATIENCE = timedelta(minutes=5)


class AlertReply(StrEnum):
    """ROLL_BACK: start one. HOLD: change nothing by itself any more. TELL: people only. NOTHING: old news."""

    ROLL_BACK = "roll_back"
    HOLD = "hold"
    TELL = "tell"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class AlertDecision:
    """What to do about an incident, and why in words."""

    reply: AlertReply
    words: str


def decide(services: Services, incident: Incident, *, cooldown: timedelta, at: datetime) -> AlertDecision:
    """What follows from this incident now. May be asked again; a delivery that is repeated is."""
    if incident.since > at + SKEW:
        return AlertDecision(AlertReply.TELL, "the alert begins in the future: whose clock is wrong?")
    serving = _serving(services, incident.model)
    if incident.version is not None and serving is not None and incident.version != serving:
        return AlertDecision(AlertReply.NOTHING, f"v{incident.version} has no traffic any more")
    if again := _after_a_rollback(services, incident, cooldown=cooldown, at=at):
        return again
    state = _release_behind(services, incident.model)
    if state is None:
        return AlertDecision(
            AlertReply.TELL, f"no release of {incident.model} is behind it that could be taken back"
        )
    if held := cooldowns.hold_on(services, incident.model):
        return AlertDecision(AlertReply.TELL, f"the model is held: {held.why}")
    if incident.since < state.started_at:
        return AlertDecision(
            AlertReply.TELL, f"it began before the release of v{state.version}, which is not the cause"
        )
    if problem := _cannot_go_back(services, state):
        return AlertDecision(AlertReply.TELL, problem)
    return AlertDecision(AlertReply.ROLL_BACK, f"v{state.version} goes, v{state.previous_version} comes back")


def _serving(services: Services, model: str) -> int | None:
    """The version that an alert would be about: the candidate while there is one, else what serves."""
    route = route_of(services, model)
    active = [state for state in services.journal.releases(model) if not state.phase.is_final]
    if active:
        return active[-1].version
    return route.stable.version if route and route.stable else None


def _release_behind(services: Services, model: str) -> RolloutState | None:
    """The release of what users are given now, if there is a version that it replaced."""
    serving = _serving(services, model)
    releases = [
        state
        for state in services.journal.releases(model)
        if state.version == serving and state.phase is not Phase.ROLLED_BACK
    ]
    return releases[-1] if releases and releases[-1].previous_version is not None else None


def _after_a_rollback(
    services: Services, incident: Incident, *, cooldown: timedelta, at: datetime
) -> AlertDecision | None:
    """Of alerts soon after the last rollback: some are its echo, the others are a second failure."""
    last = cooldowns.last_rollback_at(services, incident.model)
    releases = services.journal.releases(incident.model)
    since = [state.started_at for state in releases if state.phase is not Phase.ROLLED_BACK]
    if last is None or last < max(since, default=last):
        return None  # something was released since
    if incident.since <= last + AFTERGLOW and at <= last + PATIENCE:
        return AlertDecision(AlertReply.NOTHING, "a rollback has just answered it")
    if incident.since <= last + max(cooldown, AFTERGLOW):
        return AlertDecision(
            AlertReply.HOLD,
            f"it is wrong again soon after a rollback ({incident.alert}): another version would not help. "
            "Nothing is changed by itself any more, until somebody releases or rolls back",
        )
    return None


def _cannot_go_back(services: Services, state: RolloutState) -> str:
    """Why the version before cannot serve again; empty if it can."""
    route = route_of(services, state.service)
    if route and route.stable and route.stable.version == state.previous_version:
        return ""
    try:
        bundle_of(services, state.service, int(state.previous_version or 0))
    except Permanent as problem:
        return problem.problem
    return ""

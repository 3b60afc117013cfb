"""When a rollout that is held is worth telling people: not while it only waits for its time."""

from __future__ import annotations

from datetime import datetime, timedelta

from serving.rollout.plan import Action, Hold, Phase, RolloutState

# How long evidence may be wanting after the time of a step before somebody should know.
PATIENCE = timedelta(minutes=1)


def why(state: RolloutState, action: Action, *, at: datetime) -> str:
    """Why the rollout stands still although it should go on; empty while it does not."""
    if not isinstance(action, Hold) or state.phase.is_final:
        return ""
    if action.reason.startswith(("paused", "failing")):
        return action.reason
    if state.phase is Phase.WATCHING:
        return ""
    hold = state.plan.steps[state.step].hold_seconds if state.step >= 0 else 0.0
    overdue = at - state.step_started_at - timedelta(seconds=hold)
    return action.reason if overdue > PATIENCE else ""

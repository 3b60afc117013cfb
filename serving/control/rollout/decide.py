"""What to do next, from where the release stands and what was seen. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from serving.control.analysis.rules import DISAGREEMENT, ENOUGH_REQUESTS
from serving.control.rollout.plan import Action, Finish, Hold, Phase, Promote, Rollback, RolloutState, Shift
from serving.types import Finding, Outcome, Verdict

# The finding on what the platform says of the candidate's pods.
PODS = "pods"
UNPROVEN = "the evaluation rows are being sent to it through the gateway"


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known now. `seconds` were observed in this step.

    Only observed time counts, so that a clock that jumps, or a controller that was down, neither shortens a
    hold nor ends a step. `unacknowledged` says which proxies do not have the step's weights yet
    (`TrafficRouter.unacknowledged`).
    """

    verdict: Verdict
    seconds: float
    unacknowledged: tuple[str, ...] = ()


def decide(state: RolloutState, observation: Observation) -> Action:
    """The next action of a release that is not over."""
    match observation.verdict.outcome:
        case Outcome.FAIL:
            return _on_fail(state, observation)
        case _ if state.paused:
            return Hold(f"paused: {state.paused}")
        case _ if state.unproven:
            return _hold_or_give_up(state, observation, waiting_for=UNPROVEN)
        case Outcome.ERROR:
            return _hold_or_give_up(state, observation)
        case Outcome.INCONCLUSIVE if _lacks_pods(observation.verdict) or _needs_evidence(
            state, observation.verdict
        ):
            return _hold_or_give_up(state, observation)
        case _ if observation.unacknowledged and state.phase is Phase.PROGRESSING:
            return _hold_or_give_up(state, _without_proxies(observation))
        case _:
            return _go_on(state, observation)


def _without_proxies(observation: Observation) -> Observation:
    """A step that not every proxy has taken is no step yet: what it shows is of other weights."""
    open_points = [Finding("gateway", Outcome.INCONCLUSIVE, each) for each in observation.unacknowledged]
    verdict = observation.verdict
    return replace(observation, verdict=Verdict.of([*open_points, *verdict.findings], at=verdict.at))


def _on_fail(state: RolloutState, observation: Observation) -> Action:
    failed = tuple(finding for finding in observation.verdict.findings if finding.outcome is Outcome.FAIL)
    if state.is_first and state.phase is Phase.WATCHING:
        # People depend on it by now and nothing stands behind it: no answer at all is not better.
        return Hold(f"failing, but there is no version to return to: {_reasons(failed)}")
    return Rollback(failed)


def _needs_evidence(state: RolloutState, verdict: Verdict) -> bool:
    """A watch ends well when nothing spoke against it. Before a candidate has live traffic there is nothing
    to judge but its answers to recorded requests, where the spec has them compared. A first version has
    nobody to protect and may have no callers yet: what speaks against it holds it, and that it has refused
    everybody, not that few asked."""
    is_open = any(
        finding.rule == DISAGREEMENT.name and finding.outcome > Outcome.PASS for finding in verdict.findings
    )
    if state.phase is not Phase.PROGRESSING or state.split.candidate == 0:
        return state.phase is Phase.PROGRESSING and is_open
    return not state.is_first or _is_spoken_against(verdict) or _has_only_refused(verdict)


def _is_spoken_against(verdict: Verdict) -> bool:
    return any(
        finding.rule != ENOUGH_REQUESTS and finding.outcome > Outcome.PASS for finding in verdict.findings
    )


def _was_called(verdict: Verdict) -> bool:
    return _in_this_step(verdict, "requests") > 0


def _has_only_refused(verdict: Verdict) -> bool:
    return _in_this_step(verdict, "refused") > 0 and not _was_called(verdict)


def _in_this_step(verdict: Verdict, number: str) -> float:
    found = (finding for finding in verdict.findings if finding.rule == ENOUGH_REQUESTS)
    return max((dict(finding.numbers).get(number, 0) for finding in found), default=0)


def _lacks_pods(verdict: Verdict) -> bool:
    """Nothing goes on with a candidate whose pods are not all there: neither to more traffic, nor to its end,
    which takes the way back away."""
    return any(finding.rule == PODS and finding.outcome > Outcome.PASS for finding in verdict.findings)


def _hold_or_give_up(state: RolloutState, observation: Observation, *, waiting_for: str = "") -> Action:
    open_points = tuple(finding for finding in observation.verdict.findings if finding.outcome > Outcome.PASS)
    limit = state.plan.max_step_seconds + state.patience_from
    if state.phase is Phase.WATCHING or observation.seconds <= limit:
        return Hold(waiting_for or _reasons(open_points) or "waiting for evidence")
    late = Finding(
        "evidence in time",
        Outcome.FAIL,
        f"no pass within {state.plan.max_step_seconds:g} s in this step",
        (("waited_seconds", observation.seconds), ("max_step_seconds", state.plan.max_step_seconds)),
    )
    return Rollback((late, *open_points))


def _go_on(state: RolloutState, observation: Observation) -> Action:
    if state.phase is Phase.WATCHING:
        # A watch needs no evidence to end, but to end early it needs the pass that whoever skips is promised.
        is_skipped = state.hold_skipped and observation.verdict.outcome is Outcome.PASS
        left = 0.0 if is_skipped else state.plan.watch_seconds - observation.seconds
        if state.is_first and left > 0 and not observation.seconds:
            return Hold("it serves, and is watched from its first request on")
        return Hold(f"watching for {left:.0f} s more") if left > 0 else Finish()
    if state.step < 0:
        return Shift(0)
    has_callers = not state.is_first or _was_called(observation.verdict)
    hold = state.plan.steps[state.step].hold_seconds if has_callers else 0.0
    left = 0.0 if state.hold_skipped else hold - observation.seconds
    if left > 0:
        return Hold(f"holding for {left:.0f} s more")
    return Promote() if state.step == len(state.plan.steps) - 1 else Shift(state.step + 1)


def _reasons(findings: tuple[Finding, ...]) -> str:
    return "; ".join(finding.reason for finding in findings)

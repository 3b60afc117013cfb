"""From what the judge remembers to a Verdict a person can read. And what another policy would have said of
traffic that was recorded. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from serving.control.analysis.accumulation import LOST_SHARE, begin, observe, shown
from serving.control.analysis.evidence import reserve
from serving.control.analysis.policy import AnalysisPolicy
from serving.control.analysis.state import ARM, PLACES, Increment, JudgeMemory, JudgeState
from serving.figures import percent, setting
from serving.types import Counts, Finding, Outcome, Verdict

SUSPICION = 5.0  # evidence that delays a PASS: at most 1 healthy release in 5 ever meets it
FEW = 5  # failures say nothing yet about the rate
REPEATS_DOUBT = 20.0
ENOUGH_REQUESTS = "requests"

E_VALUES = "two-sample e-process: Turner, Ly, Gruenwald 2024 (arXiv 2106.02693); Ville's inequality"
WALD = "mixture of Wald's likelihood ratios: Robbins 1970; Lindon, Malek 2022 (arXiv 2011.03567)"


@dataclass(frozen=True, slots=True)
class _Rule:
    """One test as people know it: its row, its part of alpha, and what it counts.

    `is_repeated`: the gateway asks stable again, so where stable has no traffic of its own, its repeats tell.
    """

    name: str
    row: int
    alpha_share: float
    source: str
    told: Callable[[AnalysisPolicy, JudgeState], str]
    is_over: Callable[[AnalysisPolicy, JudgeState], bool] = lambda policy, state: False
    is_repeated: bool = False


def judge(
    policy: AnalysisPolicy,
    *,
    stable: Counts,
    candidate: Counts,
    share: float,
    at: datetime,
    retries_on_stable: bool = False,
) -> Verdict:
    """One look at the counts of one span with one `share` (0-1). Raises nothing: impossible counts are ERROR.

    For looking again and again, and across changes of weight, keep a state: `begin`, `observe`, `verdict`.
    """
    tick = Increment(stable, candidate, share, retries_on_stable=retries_on_stable)
    return verdict(policy, observe(policy, begin(), tick), at=at)


def verdict(policy: AnalysisPolicy, state: JudgeState, *, at: datetime) -> Verdict:
    """The verdict now. FAIL stays FAIL; ERROR lasts as long as the counts are impossible."""
    return Verdict.of(_findings(policy, state), at=at)


def needed(policy: AnalysisPolicy) -> dict[int, float]:
    """The e-value at which each rule's test fails a candidate, by the test's row."""
    return {rule.row: 1 / (policy.alpha * rule.alpha_share) for rule in RULES}


def _findings(policy: AnalysisPolicy, state: JudgeState) -> Iterator[Finding]:
    if state.problem:
        yield Finding("counts", Outcome.ERROR, f"these counts cannot be true: {state.problem}")
    memory = JudgeMemory(state.values[None])
    evidence = memory["wealth"][0].sum(axis=-1) + reserve(memory["seconds"])
    against = shown(evidence.copy())
    numbers = _numbers(state)
    for rule in RULES:
        if _applies(rule, policy, state):
            values = float(evidence[rule.row]), float(against[rule.row])
            yield _finding(rule, policy, state, *values, numbers)
    yield _enough(policy, state)


def _applies(rule: _Rule, policy: AnalysisPolicy, state: JudgeState) -> bool:
    if rule in (AGAINST_STABLE, REFUSALS):
        return state.share < 1 or state.stable.requests > 0
    if rule is TRAFFIC:
        return 0 < state.share < 1
    if rule is DISAGREEMENT:
        is_alone = state.share >= 1 and not state.stable.requests
        return policy.max_disagreement is not None and not is_alone
    return True


def _finding(
    rule: _Rule,
    policy: AnalysisPolicy,
    state: JudgeState,
    over: float,
    against: float,
    counts: tuple[tuple[str, float], ...],
) -> Finding:
    """`over` is the e-value now that the rule's limit is passed, `against` that stable is also better."""
    enough, peak = needed(policy)[rule.row], _peak(state, rule.row)
    if peak >= enough and not _stable_fails_too(rule, state):
        outcome, meaning = Outcome.FAIL, f"by chance at most once in {enough:,.0f} releases"
    elif peak >= enough:
        outcome, meaning = (
            Outcome.INCONCLUSIVE,
            "stable is not yet seen to answer what the candidate did not",
        )
    elif against >= SUSPICION:
        outcome, meaning = Outcome.INCONCLUSIVE, "too few yet to tell whether that is harm"
    elif over >= SUSPICION:
        outcome, meaning = Outcome.INCONCLUSIVE, "stable is not shown to do better, so it is not this release"
    elif rule is AGAINST_STABLE and not state.stable.requests:
        outcome, meaning = Outcome.INCONCLUSIVE, "stable answered nothing to compare with"
    elif rule is DISAGREEMENT and state.compared[0] < policy.min_requests:
        outcome, meaning = Outcome.INCONCLUSIVE, f"too few, {policy.min_requests} are needed"
    elif rule.is_over(policy, state):
        outcome, meaning = Outcome.INCONCLUSIVE, "over the limit, and not yet clear whether by chance"
    else:
        outcome, meaning = Outcome.PASS, "no sign of harm"
    if rule is DISAGREEMENT:
        counts = (("compared", state.compared[0]), ("disagreed", state.compared[1]))
    numbers = (*counts, ("e_value", peak), ("e_value_needed", enough))
    return Finding(rule.name, outcome, f"{rule.told(policy, state)}: {meaning}", numbers, rule.source)


def _stable_fails_too(rule: _Rule, state: JudgeState) -> bool:
    """After promotion stable only repeats what the candidate failed: those repeats must have gone better."""
    repeated = state.share >= 1 and state.repeats[0] + state.owed > 0
    return repeated and rule.is_repeated and _peak(state, REPEATS_ROW) < REPEATS_DOUBT


def _peak(state: JudgeState, row: int) -> float:
    return float(state.values[PLACES["peak"]][row])


def _enough(policy: AnalysisPolicy, state: JudgeState) -> Finding:
    counts = state.step_candidate
    seen = counts.answered
    outcome = Outcome.PASS if seen >= policy.min_requests else Outcome.INCONCLUSIVE
    told = f"the candidate answered {seen:,} of the {policy.min_requests:,} requests a step needs"
    others = ((counts.errors, "failed"), (counts.refused, "refused"), (counts.malformed, "malformed"))
    if beside := ", ".join(f"{count:,} {what}" for count, what in others if count):
        told += f" (beside {beside})"
    numbers = (("requests", seen), ("refused", counts.refused), ("min_requests", policy.min_requests))
    return Finding(ENOUGH_REQUESTS, outcome, told, numbers)


def _numbers(state: JudgeState) -> tuple[tuple[str, float], ...]:
    return tuple(
        (f"{arm}_{name}", getattr(counts, name))
        for arm, counts in (("candidate", state.candidate), ("stable", state.stable))
        for name in ARM
    )


def _rate(part: int, whole: int, of_what: str = "") -> str:
    return f"{part:,} of {whole:,}{of_what} ({percent(part / whole)})" if whole else "none of 0"


def _describe_errors(policy: AnalysisPolicy, state: JudgeState) -> str:
    candidate, stable = state.candidate, state.stable
    return (
        f"candidate failed {_rate(candidate.errors, candidate.requests, ' requests')}, stable "
        f"{_rate(stable.errors, stable.requests)}, tolerance {setting(policy.error_tolerance)}"
    )


def _describe_refusals(policy: AnalysisPolicy, state: JudgeState) -> str:
    candidate, stable = state.candidate, state.stable
    told = f"candidate refused {_rate(candidate.judged, candidate.requests, ' requests')} with 4xx"
    if malformed := candidate.judged - candidate.refused:
        told += f", {candidate.refused:,} by its model and {malformed:,} as malformed"
    usual = _rate(stable.judged, stable.requests)
    return f"{told}; stable {usual}; tolerance {setting(policy.error_tolerance)}"


def _describe_limit(policy: AnalysisPolicy, state: JudgeState) -> str:
    candidate = state.candidate
    failed = _rate(candidate.errors, candidate.requests, " requests")
    return f"candidate failed {failed}, limit {setting(policy.max_error_rate)}"


def _describe_slow(policy: AnalysisPolicy, state: JudgeState) -> str:
    candidate, stable = state.candidate, state.stable
    slow = _rate(candidate.slow, candidate.requests, " requests")
    return (
        f"candidate took over {policy.latency_objective_ms:g} ms for {slow}, "
        f"stable for {_rate(stable.slow, stable.requests)}, "
        f"limit {setting(policy.max_slow_share)}"
    )


def _describe_traffic(policy: AnalysisPolicy, state: JudgeState) -> str:
    return (
        f"candidate finished {state.step_candidate.requests:,} requests in this step at a share of "
        f"{setting(state.share)}, at least {setting(LOST_SHARE)} of which is expected"
    )


def _describe_disagreement(policy: AnalysisPolicy, state: JudgeState) -> str:
    compared, disagreed = state.compared
    limit = 0.0 if policy.max_disagreement is None else policy.max_disagreement
    return f"answers differ on {_rate(disagreed, compared)} compared requests, limit {setting(limit)}"


def _over_stable(policy: AnalysisPolicy, state: JudgeState) -> bool:
    stable, candidate = state.stable, state.candidate
    usual = stable.errors / max(stable.requests, 1)
    return _over(candidate.errors, candidate.requests, usual + policy.error_tolerance)


def _over_limit(policy: AnalysisPolicy, state: JudgeState) -> bool:
    return _over(state.candidate.errors, state.candidate.requests, policy.max_error_rate)


def _over_slow(policy: AnalysisPolicy, state: JudgeState) -> bool:
    return _over(state.candidate.slow, state.candidate.requests, policy.max_slow_share)


def _over_disagreement(policy: AnalysisPolicy, state: JudgeState) -> bool:
    compared, disagreed = state.compared
    return _over(disagreed, compared, policy.max_disagreement or 1.0)


def _over(part: int, whole: int, limit: float) -> bool:
    return part >= FEW and part > limit * whole


AGAINST_STABLE = _Rule(
    "error rate against stable", 0, 0.76, E_VALUES, _describe_errors, _over_stable, is_repeated=True
)
# Nothing is over a limit here: where clients send much that is malformed, the rates of two healthy versions
# are further apart than any tolerance.
REFUSALS = _Rule("refusals", 8, 0.06, E_VALUES, _describe_refusals, is_repeated=True)
AGAINST_LIMIT = _Rule("error rate against the limit", 3, 0.06, WALD, _describe_limit, _over_limit, True)
SLOW = _Rule("slow answers", 4, 0.08, WALD, _describe_slow, _over_slow)
TRAFFIC = _Rule("traffic", 6, 0.02, WALD, _describe_traffic)
DISAGREEMENT = _Rule("disagreement", 5, 0.02, WALD, _describe_disagreement, _over_disagreement)
RULES = (AGAINST_STABLE, REFUSALS, AGAINST_LIMIT, SLOW, TRAFFIC, DISAGREEMENT)
REPEATS_ROW = 7


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict, the rollout step it was given in, and the candidate requests seen until then."""

    verdict: Verdict
    step: int
    exposure: int


@dataclass(frozen=True, slots=True)
class Replay:
    """What would have been decided: the first FAIL, the first PASS of each step before it, the last verdict.

    After a FAIL the candidate would have had no traffic, so what was recorded later says nothing; and a
    policy that is more patient than the one in force cannot be shown traffic that was never sent.
    """

    failed: Judged | None
    passed: dict[int, Judged]
    last: Judged | None


def replay(policy: AnalysisPolicy, seen: Iterable[tuple[datetime, Increment]]) -> Replay:
    """Judge recorded increments again, oldest first, as `policy` would have."""
    passed: dict[int, Judged] = {}
    last = None
    for last in judged(policy, seen):
        if last.verdict.outcome is Outcome.FAIL:
            return Replay(last, passed, last)
        if last.verdict.outcome is Outcome.PASS:
            passed.setdefault(last.step, last)
    return Replay(None, passed, last)


def judged(policy: AnalysisPolicy, seen: Iterable[tuple[datetime, Increment]]) -> Iterator[Judged]:
    """A verdict after every increment."""
    state = begin()
    for at, increment in seen:
        state = observe(policy, state, increment)
        yield Judged(verdict(policy, state, at=at), increment.step, state.candidate.requests)

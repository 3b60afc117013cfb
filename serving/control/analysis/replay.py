"""What another policy would have said of traffic that was recorded. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from serving.control.analysis.accumulation import begin, observe
from serving.control.analysis.policy import AnalysisPolicy
from serving.control.analysis.rules import verdict
from serving.control.analysis.state import Increment
from serving.types import Outcome, Verdict


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

"""Two versions on the same rows by one metric, as checks: what is shown, what is evident, the value itself.

A gate asks whether it is *shown* that no more than its margin is lost. A guard, which nobody wrote, blocks
only what is *evidently* worse: equal models with few positives pass it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from model_store.errors import Permanent
from model_store.gates.exam import Answered
from model_store.gates.task import Unfit
from model_store.metrics.base import Comparison, Metric, TooFewRows, Truth
from model_store.release_spec import Margin
from model_store.types import Check

# An estimate of the rows needed is worth telling up to so many times those there are.
_MOST_TIMES = 1000


def gate(
    label: str, by: Metric, margin: Margin, reference: Answered, candidate: Answered, truth: Truth
) -> list[Check]:
    """The check of non-inferiority, and those of the value itself. Raises `Permanent` for too few rows."""
    try:
        return checks_of(label, by, margin, reference, candidate, truth)
    except TooFewRows as few:
        raise Permanent(
            f"gates.{by.name} cannot be judged on these rows: {few}",
            remedy=f"add rows to data.evaluation, or set gates.{by.name} to null",
        ) from few


def checks_of(
    label: str, by: Metric, margin: Margin, reference: Answered, candidate: Answered, truth: Truth
) -> list[Check]:
    _refuse_wrong_side(by, margin)
    if by.needs != "decisions" and (candidate.not_finite.any() or reference.not_finite.any()):
        return [_without_order(label, by, margin)]
    found = by.compare(truth, reference.said, candidate.said, margin.confidence)
    judged = _non_inferiority(label, by, margin, found)
    if not judged.passed:
        unchanged = by.compare(truth, reference.said, reference.said, margin.confidence)
        judged = _or_too_few(judged, _non_inferiority(label, by, margin, unchanged), by, len(truth))
    checks = [judged]
    if margin.min is not None:
        checks.append(_bound(f"{label} minimum", by, found.candidate, margin.min, is_least=True))
    if margin.max is not None:
        checks.append(_bound(f"{label} maximum", by, found.candidate, margin.max, is_least=False))
    return checks


def guarded(
    against: str, guards: list[Metric], margin: Margin, reference: Answered, candidate: Answered, truth: Truth
) -> Iterator[Check]:
    """A check for each guard that these rows can say anything about."""
    for by in guards:
        if by.needs != "decisions" and (candidate.not_finite.any() or reference.not_finite.any()):
            continue
        try:
            found = by.compare(truth, reference.said, candidate.said, margin.confidence)
        except TooFewRows:
            continue
        yield _guard(by, against, margin, found)


def _guard(by: Metric, against: str, margin: Margin, found: Comparison) -> Check:
    least = by.higher_is_better
    observed, limit = (found.upper, -margin.allowed) if least else (found.lower, margin.allowed)
    bound = f"at {'most' if least else 'least'} {_amount(by, observed)}"
    return Check(
        f"{by.name}{against} guard",
        observed,
        limit,
        passed=observed >= limit if least else observed <= limit,
        detail=f"{_in_words(by, found)}; with {margin.confidence:.0%} confidence {bound},"
        f" evidently worse {'below' if least else 'above'} {_amount(by, limit)}",
        reference=found.reference,
        value=found.candidate,
        metric=by.name,
        direction="at_least" if least else "at_most",
    )


def _non_inferiority(label: str, by: Metric, margin: Margin, found: Comparison) -> Check:
    observed = found.lower if by.higher_is_better else found.upper
    limit = -margin.allowed if by.higher_is_better else margin.allowed
    return Check(
        f"{label} non-inferiority",
        observed,
        limit,
        passed=observed >= limit if by.higher_is_better else observed <= limit,
        detail=f"{_in_words(by, found)}; with {margin.confidence:.0%} confidence "
        + (
            f"at least {observed:+.4f}, may lose {margin.allowed:.4f}"
            if by.higher_is_better
            else f"at most {_amount(by, observed)}, may rise {_amount(by, margin.allowed)}"
        ),
        reference=found.reference,
        value=found.candidate,
        metric=by.name,
        direction="at_least" if by.higher_is_better else "at_most",
    )


def _or_too_few(check: Check, unchanged: Check, by: Metric, rows: int) -> Check:
    """A failed check that says so when the reason is the rows: a model that changes nothing fails on them."""
    if unchanged.passed:
        return check
    # Where nothing changes the bound is about one over the number of rows (docs/gates.md, how many rows).
    short = unchanged.observed / unchanged.limit if unchanged.limit else math.inf
    needed = f"; some {_rounded(rows * short)} would do" if short < _MOST_TIMES else ""
    shown = _amount(by, unchanged.observed)
    why = f"too few rows: on these {rows:,} even a model that changes nothing shows only {shown}{needed}"
    return replace(check, detail=f"{check.detail}. {why}")


def _rounded(rows: float) -> str:
    """Up to two digits: an estimate."""
    size = 10 ** max(len(str(math.ceil(rows))) - 2, 0)
    return f"{math.ceil(rows / size) * size:,}"


def _in_words(by: Metric, found: Comparison) -> str:
    change = found.candidate - found.reference
    if by.relative:
        change = change / found.reference if found.reference else 0.0
    return f"{_number(found.reference)} -> {_number(found.candidate)} ({_amount(by, change)})"


def _amount(by: Metric, amount: float) -> str:
    return f"{100 * amount:+.2f} %" if by.relative else f"{amount:+.4f}"


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.6g}"


def _without_order(label: str, by: Metric, margin: Margin) -> Check:
    """NaN has no place in an order and no distance."""
    is_better = by.higher_is_better
    return Check(
        f"{label} non-inferiority",
        -1.0 if is_better else 1.0,
        -margin.allowed if is_better else margin.allowed,
        passed=False,
        detail=f"NaN or infinity among the answers: there is no {by.name} of them",
        metric=by.name,
        direction="at_least" if is_better else "at_most",
    )


def _bound(name: str, by: Metric, value: float, limit: float, *, is_least: bool) -> Check:
    return Check(
        name,
        value,
        limit,
        passed=value >= limit if is_least else value <= limit,
        detail=f"{_number(value)}, at {'least' if is_least else 'most'} {_number(limit)}",
        metric=by.name,
        direction="at_least" if is_least else "at_most",
    )


def _refuse_wrong_side(by: Metric, margin: Margin) -> None:
    if by.higher_is_better == margin.is_drop:
        return
    right, wrong = ("max_drop", "max_increase")[:: 1 if by.higher_is_better else -1]
    raise Unfit(
        f"{by.name} is judged by {right}, and the spec says {wrong}",
        remedy=f"write {{{right}: {margin.allowed:g}}}",
    )

"""From two models' predictions on the same rows to checks, by the metrics of the registry. Pure.

Two kinds of check compare models. A gate asks whether it is *shown* that no more than its margin is lost; a
guard, which nobody wrote, blocks only what is *evidently* worse: equal models with few positives pass it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from model_store.errors import Permanent
from model_store.gates.metrics.base import Comparison, Metric, Prediction, TooFewRows, Truth
from model_store.gates.metrics.registry import metric
from model_store.gates.reading import Outputs, Reading, rows_not_finite
from model_store.gates.task import Unfit
from model_store.release_spec import Gates, Margin, MarginByMetric
from model_store.types import Check

Array = np.ndarray[Any, Any]

# Beside a classifier's accuracy, which at 2 % positives does not see that none is found any more.
GUARDS = ("balanced_accuracy", "auc")
# From so small a share of one class on, accuracy is nearly that of always answering the other.
SKEWED = 0.1
# Of a slice: DeLong's normal approximation is not to be trusted with fewer.
LEAST_OF_A_CLASS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """What one version says of all rows, and which of them it answered with NaN or infinity ([N] bool)."""

    name: str
    said: Prediction
    not_finite: Array

    @classmethod
    def read(cls, name: str, outputs: Outputs, reading: Reading, rows: int) -> Answered:
        """Raises `Permanent` unless every output has as many rows as were asked."""
        return cls(name, reading.predict(outputs, rows), rows_not_finite(outputs))

    def take(self, rows: Array) -> Answered:
        return Answered(self.name, self.said.take(rows), self.not_finite[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Exam:
    """What candidates are judged on: the truth of each row, its slices, and the gates of the spec."""

    reading: Reading
    truth: Truth
    slices: Mapping[str, Array]
    gates: Gates

    def limits(self) -> dict[str, Margin]:
        """The margin of each metric that this model can be judged by, the main one first.

        A default is left out where the model has no scores for it. Raises `Permanent` (Unfit) where the limit
        is written.
        """
        limits = self.gates.limits(self.reading.task)
        blind = [name for name in limits if self._lacks_scores(metric(name))]
        if written := [name for name in blind if name in self.gates.written]:
            raise Unfit(
                f"gates.{written[0]} needs scores and the model answers only labels",
                remedy=f"export it with probabilities, or set gates.{written[0]} to null",
            )
        return {name: margin for name, margin in limits.items() if name not in blind}

    def guards(self, gated: Mapping[str, Margin]) -> list[Metric]:
        """What is looked at besides: of a classifier whose decisions are gated, where nobody gates it."""
        if self.reading.task not in ("binary", "multiclass"):
            return []
        guards = [metric(name) for name in GUARDS if name not in gated]
        return [guard for guard in guards if not self._lacks_scores(guard)]

    def _lacks_scores(self, named: Metric) -> bool:
        return named.needs == "scores" and not self.reading.has_scores


def judge(
    original: Answered, candidate: Answered, exam: Exam, champion: Answered | None = None
) -> tuple[Check, ...]:
    """Every check of one candidate's answers. `observed` of a comparison is the bound that its margin is
    about, of a minimum or maximum the value.

    Raises `Permanent` when there are no rows, or too few of a kind for a limit that the spec sets.
    """
    if len(exam.truth) == 0:
        raise Permanent("no evaluation rows", remedy="fill the file named by data.evaluation")
    limits = exam.limits()
    checks = [_finite(candidate), *_told(exam, limits)]
    for name, margin in limits.items():
        checks += _gate(name, metric(name), margin, original, candidate, exam.truth)
    first = next(iter(limits.values()), None)
    if first is not None and first.is_drop:
        checks += _guarded("", exam.guards(limits), first, original, candidate, exam.truth)
    checks += _slices(original, candidate, exam, limits)
    if exam.gates.champion is not None and champion is not None:
        checks += _against_champion(champion, candidate, exam, limits)
    return tuple(checks)


# one comparison


def _gate(
    label: str, by: Metric, margin: Margin, reference: Answered, candidate: Answered, truth: Truth
) -> list[Check]:
    """The check of non-inferiority, and those of the value itself. Raises `Permanent` for too few rows."""
    try:
        return _checks(label, by, margin, reference, candidate, truth)
    except TooFewRows as few:
        raise Permanent(
            f"gates.{by.name} cannot be judged on these rows: {few}",
            remedy=f"add rows to data.evaluation, or set gates.{by.name} to null",
        ) from few


def _checks(
    label: str, by: Metric, margin: Margin, reference: Answered, candidate: Answered, truth: Truth
) -> list[Check]:
    _refuse_wrong_side(by, margin)
    if by.needs != "decisions" and (candidate.not_finite.any() or reference.not_finite.any()):
        return [_without_order(label, by, margin)]
    found = by.compare(truth, reference.said, candidate.said, margin.confidence)
    checks = [_non_inferiority(label, by, margin, found)]
    if margin.min is not None:
        checks.append(_bound(f"{label} minimum", by, found.candidate, margin.min, is_least=True))
    if margin.max is not None:
        checks.append(_bound(f"{label} maximum", by, found.candidate, margin.max, is_least=False))
    return checks


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


# guards


def _guarded(
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
        yield Check(
            f"{by.name}{against} guard",
            found.upper,
            -margin.allowed,
            passed=found.upper >= -margin.allowed,
            detail=f"{_in_words(by, found)}; with {margin.confidence:.0%} confidence at most"
            f" {found.upper:+.4f}, evidently worse below {-margin.allowed:+.4f}",
            reference=found.reference,
            value=found.candidate,
            metric=by.name,
            direction="at_least",
        )


# the champion


def _against_champion(
    champion: Answered, candidate: Answered, exam: Exam, limits: Mapping[str, Margin]
) -> Iterator[Check]:
    margins = exam.gates.champion
    assert margins is not None
    against = f" against champion {champion.name}"
    gated = _for_champion(margins, exam, limits)
    for name, margin in gated.items():
        yield from _gate(f"{name}{against}", metric(name), margin, champion, candidate, exam.truth)
    if (for_all := margins.for_all) is not None and for_all.is_drop:
        yield from _guarded(against, exam.guards(gated), for_all, champion, candidate, exam.truth)


def _for_champion(margins: MarginByMetric, exam: Exam, limits: Mapping[str, Margin]) -> dict[str, Margin]:
    """One margin for all: of a classifier its main metric (guards see the rest), else all that are gated."""
    if (for_all := margins.for_all) is None:
        return _fitting(margins.by_metric, exam, "champion")
    is_classifier = exam.reading.task in ("binary", "multiclass")
    names = list(limits)[:1] if is_classifier else list(limits)
    return _alike(for_all, names, "champion")


def _alike(margin: Margin, names: list[str], section: str) -> dict[str, Margin]:
    """The margin for each metric whose direction it has. `min` and `max` are of the first one alone."""
    alike = [name for name in names if metric(name).higher_is_better == margin.is_drop]
    if names and not alike:
        wrong, right = ("max_drop", "max_increase")[:: 1 if margin.is_drop else -1]
        raise Unfit(
            f"gates.{section} says {wrong}, and {', '.join(names)} is judged by {right}",
            remedy=f"write `{section}: {{{right}: {margin.allowed:g}}}`",
        )
    bare = margin.model_copy(update={"min": None, "max": None})
    return {name: margin if name == names[0] else bare for name in alike}


def _fitting(by_metric: Mapping[str, Margin], exam: Exam, section: str) -> dict[str, Margin]:
    for name in by_metric:
        if exam.reading.task not in metric(name).tasks:
            raise Unfit(
                f"gates.{section}.{name} is not for a {exam.reading.task} task",
                remedy=f"take it out; gated are {', '.join(exam.limits())}",
            )
        if metric(name).needs == "scores" and not exam.reading.has_scores:
            raise Unfit(
                f"gates.{section}.{name} needs scores and the model answers only labels",
                remedy=f"export it with probabilities, or take {name} out of gates.{section}",
            )
    return dict(by_metric)


# slices


def _slices(
    original: Answered, candidate: Answered, exam: Exam, limits: Mapping[str, Margin]
) -> Iterator[Check]:
    margins = exam.gates.slices
    if margins is None:
        return
    for_all = margins.for_all
    named = _fitting(margins.by_metric, exam, "slices")
    judged = named if for_all is None else _alike(for_all, list(limits), "slices")
    for column, values in exam.slices.items():
        for value in sorted(set(values.tolist())):
            rows = values == value
            parts = original.take(rows), candidate.take(rows)
            checks = _slice(f"[{column}={value}]", judged, *parts, exam.truth.take(rows))
            count = int(rows.sum())
            few = f"{count} rows, {margins.min_rows} needed"
            yield from checks if count >= margins.min_rows else (_reported(check, few) for check in checks)


def _slice(
    name: str, judged: Mapping[str, Margin], original: Answered, candidate: Answered, truth: Truth
) -> Iterator[Check]:
    for metric_name, margin in judged.items():
        by, label = metric(metric_name), f"{metric_name} {name}"
        try:
            _refuse_few_of_a_kind(by, truth)
            yield from _checks(label, by, margin, original, candidate, truth)
        except TooFewRows as few:
            yield _reported(Check(f"{label} non-inferiority", 0.0, 0.0, True, metric=metric_name), str(few))


def _refuse_few_of_a_kind(by: Metric, truth: Truth) -> None:
    """Raises `TooFewRows` where the order of so few of one class says nothing by a normal approximation."""
    if by.needs != "scores" or truth.class_count != 2 or truth.classes is None:
        return
    positives = int(np.sum(truth.classes == 1))
    if (least := min(positives, len(truth) - positives)) < LEAST_OF_A_CLASS:
        raise TooFewRows(f"{least} rows of one class, {LEAST_OF_A_CLASS} needed")


def _reported(check: Check, why: str) -> Check:
    """A check on too few rows to judge by: it keeps its numbers, and gets a limit nothing can miss."""
    limit = min(-1.0, check.observed) if check.direction == "at_least" else max(1.0, check.observed)
    said = f": {check.detail}" if check.detail else ""
    direction = check.direction or "at_most"
    return replace(
        check, limit=limit, passed=True, direction=direction, detail=f"reported, not judged ({why}){said}"
    )


# what is told


def _finite(candidate: Answered) -> Check:
    bad = candidate.not_finite
    first = f", first in row {int(np.argmax(bad))}" if bad.any() else ""
    return Check(
        "finite answers",
        observed=float(bad.sum()),
        limit=0.0,
        passed=not bad.any(),
        detail=f"{int(bad.sum())} of {len(bad)} rows answered with NaN or infinity{first}",
        direction="at_most",
    )


def _told(exam: Exam, limits: Mapping[str, Margin]) -> Iterator[Check]:
    """What blocks nothing and should be known."""
    for place, sentence in enumerate(exam.reading.told):
        yield Check(f"classes {place + 1}", 0.0, 0.0, True, sentence, direction="at_most")
    if exam.reading.task == "binary" and list(limits) == ["accuracy"]:
        assert exam.truth.classes is not None
        share = float(np.mean(exam.truth.classes == 1))
        if min(share, 1 - share) < SKEWED:
            yield _skewed(share)


def _skewed(share: float) -> Check:
    least = min(share, 1 - share)
    return Check(
        "accuracy alone",
        share,
        1.0,
        passed=True,
        detail=f"a warning: {share:.1%} of the rows are positive, so that always giving one answer is right"
        f" in {1 - least:.1%}; gate recall, precision or average_precision as well",
        direction="at_most",
    )

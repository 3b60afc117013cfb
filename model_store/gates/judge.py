"""From two models' predictions on the same rows to checks, by the metrics of the registry. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from model_store.errors import Permanent
from model_store.gates.comparison import checks_of, gate, guarded
from model_store.gates.exam import Answered, Exam
from model_store.gates.task import Unfit
from model_store.metrics.base import Metric, TooFewRows, Truth
from model_store.metrics.registry import metric
from model_store.release_spec import Margin, MarginByMetric
from model_store.types import Check

# From so small a share of one class on, accuracy is nearly that of always answering the other.
SKEWED = 0.1
# Of a slice: DeLong's normal approximation is not to be trusted with fewer.
LEAST_OF_A_CLASS = 10


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
        checks += gate(name, metric(name), margin, original, candidate, exam.truth)
    for own in exam.custom:
        checks += gate(own.title, own.by, own.margin, original, candidate, exam.truth)
    first = next(iter(limits.values()), None)
    if first is not None and first.is_drop:
        checks += guarded("", exam.guards(limits), first, original, candidate, exam.truth)
    checks += _slices(original, candidate, exam, limits)
    if champion is not None:
        compared = _guarded_against_champion if exam.gates.champion is None else _against_champion
        checks += compared(champion, candidate, exam, limits)
    return tuple(checks)


def _against_champion(
    champion: Answered, candidate: Answered, exam: Exam, limits: Mapping[str, Margin]
) -> Iterator[Check]:
    margins = exam.gates.champion
    assert margins is not None
    against = f" against champion {champion.name}"
    gated = _for_champion(margins, exam, limits)
    for name, margin in gated.items():
        yield from gate(f"{name}{against}", metric(name), margin, champion, candidate, exam.truth)
    for own in exam.custom:
        yield from gate(f"{own.title}{against}", own.by, own.margin, champion, candidate, exam.truth)
    if (for_all := margins.for_all) is not None and for_all.is_drop:
        yield from guarded(against, exam.guards(gated), for_all, champion, candidate, exam.truth)


def _guarded_against_champion(
    champion: Answered, candidate: Answered, exam: Exam, limits: Mapping[str, Margin]
) -> Iterator[Check]:
    """The spec says nothing of the champion: what is evidently worse than it is held back all the same."""
    against = f" against champion {champion.name}"
    checks = [
        check
        for name, margin in limits.items()
        for check in guarded(against, [metric(name)], margin, champion, candidate, exam.truth)
    ]
    for own in exam.custom:
        # Named as its gate is: two of them may be one function.
        found = guarded(against, [own.by], own.margin, champion, candidate, exam.truth)
        checks += [replace(check, name=f"{own.title}{against} guard") for check in found]
    first = next(iter(limits.values()), None)
    if first is not None and first.is_drop:
        checks += guarded(against, exam.guards(limits), first, champion, candidate, exam.truth)
    way_out = "; `gates.champion: null` in the spec releases it all the same"
    for check in checks:
        yield check if check.passed else replace(check, detail=check.detail + way_out)
        # Once is enough to say it.
        way_out = way_out if check.passed else ""


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
            yield from checks_of(label, by, margin, original, candidate, truth)
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
    if check.detail.startswith("reported"):
        return check
    limit = min(-1.0, check.observed) if check.direction == "at_least" else max(1.0, check.observed)
    said = f": {check.detail}" if check.detail else ""
    direction = check.direction or "at_most"
    return replace(
        check, limit=limit, passed=True, direction=direction, detail=f"reported, not judged ({why}){said}"
    )


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

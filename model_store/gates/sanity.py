"""Sanity before comparison: is the original better than whoever looks at no input?

A candidate that equals its original passes every comparison, also where the original is noise, or its answers
are read the wrong way round. The answer that looks at no input is the metric's own (`Metric.blind`): the
majority class, the median, the same score for everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from model_store.errors import Permanent
from model_store.gates.exam import Answered, Exam
from model_store.gates.reading import Reading
from model_store.gates.vocabulary import written
from model_store.metrics.base import Metric, TooFewRows
from model_store.metrics.registry import metric
from model_store.release_spec import Margin, Word

CONFIDENCE = 0.95
# Random order is 0.5. A model that learnt something and is read the wrong way round is far below it.
CLEARLY_UNDER = 0.45


class NoBetterThanTrivial(Permanent):
    """The original does not know more than whoever looks at no input, or knows it the wrong way round."""


@dataclass(frozen=True, slots=True)
class Beaten:
    """The original beside the trivial answer by one metric. `is_better`, `is_worse`: by more than chance."""

    name: str
    trivial: float
    own: float
    is_better: bool
    is_worse: bool

    def __str__(self) -> str:
        return f"{self.name} {self.own:.4g}, and without looking {self.trivial:.4g}"


def refuse_trivial(original: Answered, exam: Exam) -> None:
    """Raises `Permanent` (NoBetterThanTrivial) unless the original beats the trivial answer by one of the
    metrics it is judged by, with more than chance. Nothing is refused where rows are too few to tell.
    """
    if not exam.gates.must_beat_trivial:
        return
    limits = exam.limits()
    found = [
        one
        for by in [*map(metric, limits), *exam.guards(limits)]
        if (one := _beaten(by, original, exam)) is not None
    ]
    _refuse_wrong_way_round(found, exam)
    _refuse_contradiction(found)
    _refuse_one_answer(original, exam)
    if found and not any(one.is_better for one in found):
        raise NoBetterThanTrivial(
            "the original is not shown to be better, by more than chance, than an answer that looks at no"
            f" input: {'; '.join(map(str, found))}",
            remedy="look at its training, whether data.label is what it was trained on, and whether few rows"
            " outweigh all others; if it need not be better, write `gates: {must_beat_trivial: false}`",
        )


def refuse_mirrored(champion: Answered, exam: Exam) -> None:
    """Raises `Permanent` (NoBetterThanTrivial) where the champion's answers are read the wrong way round:
    then any candidate looks better.
    """
    if not exam.gates.must_beat_trivial or exam.reading.task not in ("binary", "multiclass"):
        return
    by = metric("auc")
    found = _beaten(by, champion, exam) if exam.reading.has_scores else None
    if found is not None and _is_mirrored(found):
        raise NoBetterThanTrivial(
            f"the AUC of champion {champion.name} is {found.own:.4f}, clearly under the 0.5 of random order:"
            " it looks like its classes read the wrong way round, and any candidate is better than that",
            remedy="if the champion counts its classes in another order than `classes` of this spec says,"
            " leave out gates.champion for this release, and set gates.accuracy.min",
        )


def _beaten(by: Metric, original: Answered, exam: Exam) -> Beaten | None:
    if original.not_finite.any():
        return None
    try:
        blind = by.blind(exam.truth)
        if blind is None:
            return None
        found = by.compare(exam.truth, blind, original.said, CONFIDENCE)
    except TooFewRows:
        return None
    is_better = found.lower > 0 if by.higher_is_better else found.upper < 0
    is_worse = found.upper < 0 if by.higher_is_better else found.lower > 0
    return Beaten(by.name, found.reference, found.candidate, is_better, is_worse)


def _refuse_wrong_way_round(found: list[Beaten], exam: Exam) -> None:
    """Worse than random order by more than chance: it knows the answer, and says the opposite."""
    for one in found:
        if _is_mirrored(one):
            turned = _turned_round(exam.reading)
            binary = (
                f"; if so, write `classes: {written(turned)}`, or correct outputs.scores"
                if exam.reading.task == "binary"
                else "; say the order of the classes in `classes`, or correct outputs.scores"
            )
            raise NoBetterThanTrivial(
                f"the original's AUC is {one.own:.4f}, clearly under the 0.5 of random order: it looks like"
                " classes the wrong way round",
                remedy="look at which class is which" + binary,
            )


def _is_mirrored(one: Beaten) -> bool:
    return one.name == "auc" and one.is_worse and one.own < CLEARLY_UNDER


def _refuse_contradiction(found: list[Beaten]) -> None:
    """Scores that know the answer, and decisions that are right less often than at random: of one answer to
    all rows the balanced accuracy is 1 / classes, and no threshold makes it less.
    """
    by_name = {one.name: one for one in found}
    auc, decisions = by_name.get("auc"), by_name.get("balanced_accuracy")
    if auc is None or decisions is None or not (auc.is_better and decisions.is_worse):
        return
    if decisions.own < 2 * CLEARLY_UNDER * decisions.trivial:
        raise NoBetterThanTrivial(
            f"the original's label contradicts its scores: they rank well (AUC {auc.own:.4f}), and the"
            f" label's balanced accuracy is {decisions.own:.4f}, clearly under {decisions.trivial:.4f},"
            " that of one answer to all rows",
            remedy="correct how the model makes its label of its scores, or say in outputs.label and"
            " outputs.scores which outputs they are",
        )


def _turned_round(reading: Reading) -> list[Word]:
    """The classes in the opposite of the order in which the model counts them."""
    classes, columns = reading.classes, reading.columns
    counted = (
        [word for _, word in sorted(zip(columns, classes, strict=True), key=lambda pair: pair[0])]
        if columns
        else list(classes)
    )
    return counted[::-1]


def _refuse_one_answer(original: Answered, exam: Exam) -> None:
    """A limit on decisions that somebody wrote, and a model that decides nothing."""
    written_limits: Mapping[str, Margin | None] = exam.gates.written
    gated = [n for n, m in written_limits.items() if m is not None and metric(n).needs == "decisions"]
    decided = original.said.decisions
    if not gated or decided is None or decided.ndim != 1 or exam.truth.classes is None:
        return
    if len(np.unique(decided)) > 1 or len(np.unique(exam.truth.classes)) == 1:
        return
    place, classes = int(decided[0]), exam.reading.classes
    word = classes[place] if 0 <= place < len(classes) else "no known class"
    scores_alone = "; if only its scores are used, gate auc or average_precision, and `accuracy: null`"
    raise NoBetterThanTrivial(
        f"the original answers {word!r} to all {len(decided)} rows, so gates.{gated[0]} compares nothing",
        remedy="correct its threshold" + (scores_alone if exam.reading.has_scores else ""),
    )

"""The reading of a classifier: which of its classes is which word of the file, and how each is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from model_store.gates.matching import Matched, match
from model_store.gates.outputs import Scores, find_label, possible_scores, scores_alone
from model_store.gates.questions import OpenQuestion, OpenQuestions, Seen, either
from model_store.gates.reading import Reading, told_of_classes
from model_store.gates.score_columns import columns_of, single_column, winners
from model_store.gates.vocabulary import Vocabulary, different, shown, written
from model_store.release_spec import Word, words_of

Array = np.ndarray[Any, Any]


def classifier(seen: Seen) -> Reading:
    """The reading of a binary or multiclass model. Raises `Unsaid` with all that must be said."""
    asked = OpenQuestions()
    label = asked.attempt(lambda: find_label(seen), None)
    scores = asked.attempt(lambda: _find_scores(seen, label), None)
    asked.settle()
    if label is None and scores is None:
        raise OpenQuestion(
            f"no output looks like a class or scores: {seen.described()}",
            "outputs: {label: THE OUTPUT WITH THE CLASS, scores: THE OUTPUT WITH A COLUMN FOR EACH CLASS}",
        )
    matched = match(seen, label, scores)
    all_words = _with_those_of_the_file(seen, matched)
    order = asked.attempt(lambda: _order(seen, all_words), tuple(range(len(all_words))))
    nowhere: tuple[int, ...] = ()
    columns = asked.attempt(lambda: columns_of(seen, matched, label, scores), nowhere)
    asked.settle()
    return _reading(seen, label, scores, matched, [all_words[at] for at in order], columns, asked)


def _reading(
    seen: Seen,
    label: str | None,
    scores: Scores | None,
    matched: Matched,
    classes: Sequence[Word],
    columns: Sequence[int],
    asked: OpenQuestions,
) -> Reading:
    own = Vocabulary(matched.words)
    at = [own.place(word) for word in classes]
    is_single = scores is not None and scores.width == 1
    threshold = scores.threshold if scores and is_single else None
    if scores is not None and is_single and label is None:
        threshold = asked.attempt(lambda: scores.decides(seen), 0.0)
        asked.settle()
    file = Vocabulary(seen.file_words)
    unsayable = tuple(word for word, place in zip(classes, at, strict=True) if place is None)
    absent = tuple(word for word in matched.words if file.place(word) is None)
    return Reading(
        "binary" if len(classes) == 2 else "multiclass",
        label=label,
        scores=scores.name if scores else None,
        classes=tuple(classes),
        said=tuple(
            word if place is None else matched.said[place] for word, place in zip(classes, at, strict=True)
        ),
        columns=tuple(columns[place] if place is not None else -1 for place in at) if columns else (),
        single=single_column(seen, label, scores, matched, classes) if scores and is_single else None,
        threshold=threshold,
        are_probabilities=bool(scores and scores.are_probabilities),
        are_margins=bool(scores and scores.are_margins),
        told=tuple(told_of_classes(unsayable, absent)),
    )


def _find_scores(seen: Seen, label: str | None) -> Scores | None:
    """The scores, by their width where the number of classes is known."""
    count = _class_count(seen, label)
    widths = {count} | ({1} if count == 2 else set()) if count else set(range(1, 100_000))
    fits = possible_scores(seen, widths)
    if seen.named("scores") is None and label is not None and len(fits) > 1:
        agreeing = {name: values for name, values in fits.items() if _agrees(seen.answers[label], values)}
        fits = agreeing or fits
    return scores_alone(seen, fits)


def _class_count(seen: Seen, label: str | None) -> int | None:
    """How many classes the model has, where that is known before its scores are."""
    if said := seen.model_words or words_of(seen.spec.classes):
        return len(said)
    if seen.spec.task == "binary":
        return 2
    if label is None:
        return None
    answered = different(seen.answers[label])
    unsaid = [word for word in seen.file_words if Vocabulary(answered).place(word) is None]
    return len(answered) + len(unsaid)


def _agrees(label: Array, values: Array) -> bool:
    """Whether each column of scores that ever wins is the same class in every row."""
    if values.ndim != 2 or values.shape[1] < 2:
        return False
    return winners(label, values) is not None


def _with_those_of_the_file(seen: Seen, matched: Matched) -> list[Word]:
    own = Vocabulary(matched.words)
    return [*matched.words, *(word for word in seen.file_words if own.place(word) is None)]


def _order(seen: Seen, words: Sequence[Word]) -> tuple[int, ...]:
    """Places in the order of metrics: the model's own, of two classes the positive one last."""
    wanted: Literal["binary", "multiclass"] = "binary" if len(words) == 2 else "multiclass"
    task = seen.task or seen.spec.task
    if task is not None and task != wanted:
        raise OpenQuestion(
            f"the task is {task}, and there are {len(words)} classes: {shown(words)}", f"task: {wanted}"
        )
    if wanted == "multiclass":
        return tuple(range(len(words)))
    positive = Vocabulary(words).place(seen.spec.data.positive)
    if positive is None:
        raise OpenQuestion(
            f"data.positive is {seen.spec.data.positive!r}, and the classes are {shown(words)}: nothing says"
            " which of the two is looked for",
            *either(*(f"data: {{positive: {written(word)}, ...}}" for word in words)),
        )
    return (1 - positive, positive)

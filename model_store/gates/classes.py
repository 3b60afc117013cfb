"""Which class of the model is which word of the file, and which column of the scores is whose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from model_store.gates.outputs import Scores, find_label, possible_scores, scores_alone
from model_store.gates.questions import Asked, Question
from model_store.gates.reading import Reading, told_of_classes
from model_store.gates.seen import Seen
from model_store.gates.words import Vocabulary, different, shown, written
from model_store.release_spec import Word, words_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Matched:
    """The model's classes, `said` in its own words and `words` in the file's, one by one.

    `is_ordered`: in the order in which the model counts them, so that columns of scores are theirs.
    """

    said: tuple[Word, ...]
    words: tuple[Word, ...]
    is_ordered: bool


def classifier(seen: Seen) -> Reading:
    """The reading of a binary or multiclass model. Raises `Unsaid` with all that must be said."""
    asked = Asked()
    label = asked.attempt(lambda: find_label(seen), None)
    scores = asked.attempt(lambda: _find_scores(seen, label), None)
    asked.settle()
    if label is None and scores is None:
        raise Question(
            f"no output looks like a class or scores: {seen.described()}",
            "outputs: {label: THE OUTPUT WITH THE CLASS, scores: THE OUTPUT WITH A COLUMN FOR EACH CLASS}",
        )
    matched = _match(seen, label, scores)
    all_words = _with_those_of_the_file(seen, matched)
    order = asked.attempt(lambda: _order(seen, all_words), tuple(range(len(all_words))))
    nowhere: tuple[int, ...] = ()
    columns = asked.attempt(lambda: _columns(seen, matched, label, scores), nowhere)
    asked.settle()
    return _reading(seen, label, scores, matched, [all_words[at] for at in order], columns, asked)


def _reading(
    seen: Seen,
    label: str | None,
    scores: Scores | None,
    matched: Matched,
    classes: Sequence[Word],
    columns: Sequence[int],
    asked: Asked,
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
        single=_single(seen, label, scores, matched, classes) if scores and is_single else None,
        threshold=threshold,
        are_probabilities=bool(scores and scores.are_probabilities),
        told=tuple(told_of_classes(unsayable, absent)),
    )


# which output


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
    return _winners(label, values) is not None


def _winners(label: Array, values: Array) -> dict[int, Word] | None:
    """The class that each winning column stands for; None if some column wins for two, or two for one."""
    won = np.argmax(values, axis=1)
    found: dict[int, Word] = {}
    for column in np.unique(won).tolist():
        words = different(label.reshape(-1)[won == column])
        if len(words) != 1:
            return None
        found[column] = words[0]
    return found if len(set(map(str, found.values()))) == len(found) else None


# which class


def _match(seen: Seen, label: str | None, scores: Scores | None) -> Matched:
    """The model's classes in the file's words. Raises `Question` with both sides where it is not certain."""
    said, is_complete, is_ordered = _own_words(seen, label, scores)
    written_down = seen.spec.classes
    if isinstance(written_down, Mapping):
        return _by_name(said, written_down, label)
    if written_down is not None:
        return _by_list(seen, said, written_down, is_complete=is_complete, label=label)
    if _meet(said, seen.file_words):
        return Matched(said, _in_the_files_words(said, seen.file_words), is_ordered)
    raise _both_sides(said, seen.file_words)


def _own_words(seen: Seen, label: str | None, scores: Scores | None) -> tuple[tuple[Word, ...], bool, bool]:
    """The model's own words for its classes, whether these are all of them, and whether they are in order."""
    if (said := seen.model_words) is not None:
        return said, True, True
    if label is not None:
        answered = different(seen.answers[label])
        if scores and scores.width > 1 and _are_places(answered, scores.width):
            # Numbers that all could be places among the columns; whether they are, `_columns` looks.
            return _numbers(answered, seen, scores.width), False, False
        return answered, False, False
    assert scores is not None
    return tuple(range(scores.width if scores.width > 1 else 2)), True, True


def _are_places(words: Sequence[Word], count: int) -> bool:
    return all(isinstance(word, int) and 0 <= word < count for word in words)


def _numbers(answered: Sequence[Word], seen: Seen, count: int) -> tuple[Word, ...]:
    """The classes that were answered and those of the file that never were, if they are numbers as well."""
    possible = [word for word in range(count) if Vocabulary(seen.file_words).place(word) is not None]
    return tuple(sorted({*map(int, answered), *possible}))


def _by_name(said: Sequence[Word], classes: Mapping[str, Word], label: str | None) -> Matched:
    missing = [word for word in said if str(word) not in classes]
    if missing:
        raise Question(
            f"the model answers {shown(said)}, and classes says nothing of {shown(missing)}",
            f"classes: {written({**classes, **{str(word): 'ITS WORD IN THE FILE' for word in missing}})}",
        )
    names = list(classes)
    by_spelling = {str(word): word for word in said}
    return Matched(tuple(by_spelling.get(name, name) for name in names), tuple(classes.values()), True)


def _by_list(
    seen: Seen, said: tuple[Word, ...], classes: Sequence[Word], *, is_complete: bool, label: str | None
) -> Matched:
    """One by one: the model's first class is the first of the list, its number 0 as well."""
    file = Vocabulary(seen.file_words)
    if not any(file.place(word) is not None for word in classes):
        raise Question(
            f"classes lists {shown(classes)}, and the file holds {shown(seen.file_words)}",
            f"classes: {written(_filled(classes, seen.file_words))}   # the file's words as the model counts",
        )
    wanted, are_names = Vocabulary(classes), seen.model_words is not None or label is not None
    if are_names and all(wanted.place(word) is not None for word in said):
        if is_complete and [wanted.place(word) for word in said] != list(range(len(classes))):
            raise Question(
                f"the model counts its classes {shown(said)}, and classes says {shown(classes)}",
                f"classes: {written(list(said))}",
            )
        return Matched(tuple(classes), tuple(classes), True)
    if is_complete and len(said) == len(classes):
        return Matched(said, tuple(classes), True)
    if not is_complete and _are_places(said, len(classes)):
        return Matched(tuple(range(len(classes))), tuple(classes), True)
    if is_complete:
        raise Question(
            f"the model has {len(said)} classes {shown(said)}, and classes lists {len(classes)}",
            f"classes: {written(_filled(said, seen.file_words))}",
        )
    pairs = {str(own): other for own, other in zip(said, classes, strict=False)}
    raise Question(
        f"the model answers {shown(said)}, and classes lists {shown(classes)}: which is which is not said",
        f"classes: {written(pairs)}   # the model's word: the file's word",
    )


def _meet(said: Sequence[Word], file: Sequence[Word]) -> bool:
    """Whether both speak of the same: all words of one are words of the other."""
    own, theirs = Vocabulary(said), Vocabulary(file)
    return all(own.place(word) is not None for word in file) or all(
        theirs.place(word) is not None for word in said
    )


def _in_the_files_words(said: Sequence[Word], file: Sequence[Word]) -> tuple[Word, ...]:
    theirs = Vocabulary(file)
    places = [(word, theirs.place(word)) for word in said]
    return tuple(word if place is None else theirs.words[place] for word, place in places)


def _both_sides(said: Sequence[Word], file: Sequence[Word]) -> Question:
    are_numbers = list(said) == list(range(len(said)))
    filled = _filled(said, file)
    if are_numbers:
        first = f"number 0 is {filled[0]}, number 1 is {filled[1]}"
        line = f"classes: {written(filled)}   # if {first}; in another order if it is another"
    else:
        pairs = {str(word): other for word, other in zip(said, filled, strict=True)}
        line = f"classes: {written(pairs)}   # the model's word: the file's word"
    return Question(
        f"the model answers {shown(said)}, the file holds {shown(file)}: which is which is not said", line
    )


def _filled(said: Sequence[Word], file: Sequence[Word]) -> list[Word]:
    extra: list[Word] = ["ANOTHER WORD"] * max(0, len(said) - len(file))
    return [*file, *extra][: len(said)]


def _with_those_of_the_file(seen: Seen, matched: Matched) -> list[Word]:
    own = Vocabulary(matched.words)
    return [*matched.words, *(word for word in seen.file_words if own.place(word) is None)]


def _order(seen: Seen, words: Sequence[Word]) -> tuple[int, ...]:
    """Places in the order of metrics: the model's own, of two classes the positive one last."""
    wanted: Literal["binary", "multiclass"] = "binary" if len(words) == 2 else "multiclass"
    task = seen.task or seen.spec.task
    if task is not None and task != wanted:
        raise Question(
            f"the task is {task}, and there are {len(words)} classes: {shown(words)}", f"task: {wanted}"
        )
    if wanted == "multiclass":
        return tuple(range(len(words)))
    positive = Vocabulary(words).place(seen.spec.data.positive)
    if positive is None:
        raise Question(
            f"data.positive is {seen.spec.data.positive!r}, and the classes are {shown(words)}: nothing says"
            " which of the two is looked for",
            *(f"data: {{positive: {written(word)}, ...}}" for word in words),
        )
    return (1 - positive, positive)


# which column


def _columns(seen: Seen, matched: Matched, label: str | None, scores: Scores | None) -> tuple[int, ...]:
    """For each class of the model its column among the scores. Raises `Question`."""
    if scores is None or scores.width == 1:
        return ()
    if scores.width < len(matched.words):
        raise Question(
            f"output `{scores.name}` has {scores.width} columns for the {len(matched.words)} classes"
            f" {shown(matched.words)}",
            "outputs: {scores: ANOTHER OUTPUT, ...}",
            f"# or: classes: {written(list(matched.words)[: scores.width])}",
        )
    if matched.is_ordered:
        return tuple(range(len(matched.words)))
    assert label is not None
    return _confirmed(seen, matched, label, scores)


def _confirmed(seen: Seen, matched: Matched, label: str, scores: Scores) -> tuple[int, ...]:
    """The columns that the label output confirms row by row, and those that then are the only ones left."""
    found = _winners(seen.answers[label], scores.values) or _threshold(seen.answers[label], scores.values)
    numbers = {word: word for word in matched.said if isinstance(word, int) and word < scores.width}
    is_numbered = len(numbers) == len(matched.said)
    own = Vocabulary(matched.said)
    placed = {own.place(word): column for column, word in (found or {}).items()}
    if is_numbered and all(matched.said[at] == column for at, column in placed.items() if at is not None):
        # Class numbers that are column numbers, and no row says otherwise.
        return tuple(numbers[word] for word in matched.said if isinstance(word, int))
    left_classes = [at for at in range(len(matched.said)) if at not in placed]
    left_columns = [column for column in range(scores.width) if column not in (found or {})]
    if len(left_classes) == len(left_columns) <= 1:
        placed.update(zip(left_classes, left_columns, strict=True))
        return tuple(placed[at] for at in range(len(matched.said)))
    raise Question(
        f"nothing says which column of output `{scores.name}` is which of {shown(matched.words)}",
        f"classes: {written(list(matched.words))}   # in the order of the columns",
    )


def _threshold(label: Array, values: Array) -> dict[int, Word] | None:
    """Of two classes decided at a threshold of the model's own: the word of the rows where each is high."""
    words = different(label)
    if values.shape[1] != 2 or len(words) != 2:
        return None
    surer = values[:, 1].astype(np.float64) - values[:, 0]
    high = _side(label, surer, words)
    return None if high is None else {1: words[high], 0: words[1 - high]}


def _side(label: Array, surer: Array, words: Sequence[Word]) -> int | None:
    """Which of two words all the high scores have; None if they overlap, or only one word is answered."""
    places = Vocabulary(words).places(label)
    sides = [surer[places == at] for at in (0, 1)]
    if not all(len(side) for side in sides):
        return None
    if sides[0].max() <= sides[1].min():
        return 1
    return 0 if sides[1].max() <= sides[0].min() else None


def _single(seen: Seen, label: str | None, scores: Scores, matched: Matched, classes: Sequence[Word]) -> int:
    """Whose sureness a single column of scores is, as a place in `classes`: the class that the label output
    gives to high scores, else the model's second one.
    """
    canonical = Vocabulary(classes)
    if label is not None and len(matched.said) == 2:
        side = _side(seen.answers[label], scores.values.reshape(-1).astype(np.float64), matched.said)
        if side is not None:
            return canonical.place(matched.words[side]) or 0
    second = matched.words[1] if len(matched.words) > 1 else classes[1]
    return canonical.place(second) or 0

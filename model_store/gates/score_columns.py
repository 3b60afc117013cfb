"""Which column of the scores is whose: in the model's own order, or as its label confirms row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from model_store.gates.matching import Matched
from model_store.gates.outputs import Scores
from model_store.gates.questions import OpenQuestion, Seen
from model_store.gates.vocabulary import Vocabulary, different, shown, written
from model_store.release_spec import Word

Array = np.ndarray[Any, Any]


def columns_of(seen: Seen, matched: Matched, label: str | None, scores: Scores | None) -> tuple[int, ...]:
    """For each class of the model its column among the scores. Raises `OpenQuestion`."""
    if scores is None or scores.width == 1:
        return ()
    if scores.width < len(matched.words):
        raise OpenQuestion(
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
    found = winners(seen.answers[label], scores.values) or _threshold(seen.answers[label], scores.values)
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
    raise OpenQuestion(
        f"nothing says which column of output `{scores.name}` is which of {shown(matched.words)}",
        f"classes: {written(list(matched.words))}   # in the order of the columns",
    )


def winners(label: Array, values: Array) -> dict[int, Word] | None:
    """The class that each winning column stands for; None if some column wins for two, or two for one."""
    won = np.argmax(values, axis=1)
    found: dict[int, Word] = {}
    for column in np.unique(won).tolist():
        words = different(label.reshape(-1)[won == column])
        if len(words) != 1:
            return None
        found[column] = words[0]
    return found if len(set(map(str, found.values()))) == len(found) else None


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


def single_column(
    seen: Seen, label: str | None, scores: Scores, matched: Matched, classes: Sequence[Word]
) -> int:
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

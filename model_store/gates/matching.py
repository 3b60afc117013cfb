"""Which class of the model is which word of the file: as spec or model say, or as leaves no doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model_store.gates.outputs import Scores
from model_store.gates.questions import OpenQuestion, Seen
from model_store.gates.vocabulary import Vocabulary, different, shown, written
from model_store.release_spec import Word


@dataclass(frozen=True, slots=True)
class Matched:
    """The model's classes, `said` in its own words and `words` in the file's, one by one.

    `is_ordered`: in the order in which the model counts them, so that columns of scores are theirs.
    """

    said: tuple[Word, ...]
    words: tuple[Word, ...]
    is_ordered: bool


def match(seen: Seen, label: str | None, scores: Scores | None) -> Matched:
    """The model's classes in the file's words. Raises `OpenQuestion` with both sides if uncertain."""
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
            # Numbers that all could be places among the columns; whether they are, `columns_of` looks.
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
        raise OpenQuestion(
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
        raise OpenQuestion(
            f"classes lists {shown(classes)}, and the file holds {shown(seen.file_words)}",
            f"classes: {written(_filled(classes, seen.file_words))}   # the file's words as the model counts",
        )
    wanted, are_names = Vocabulary(classes), seen.model_words is not None or label is not None
    if are_names and all(wanted.place(word) is not None for word in said):
        if is_complete and [wanted.place(word) for word in said] != list(range(len(classes))):
            raise OpenQuestion(
                f"the model counts its classes {shown(said)}, and classes says {shown(classes)}",
                f"classes: {written(list(said))}",
            )
        return Matched(tuple(classes), tuple(classes), True)
    if is_complete and len(said) == len(classes):
        return Matched(said, tuple(classes), True)
    if not is_complete and _are_places(said, len(classes)):
        return Matched(tuple(range(len(classes))), tuple(classes), True)
    if is_complete:
        raise OpenQuestion(
            f"the model has {len(said)} classes {shown(said)}, and classes lists {len(classes)}",
            f"classes: {written(_filled(said, seen.file_words))}",
        )
    pairs = {str(own): other for own, other in zip(said, classes, strict=False)}
    raise OpenQuestion(
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


def _both_sides(said: Sequence[Word], file: Sequence[Word]) -> OpenQuestion:
    are_numbers = list(said) == list(range(len(said)))
    filled = _filled(said, file)
    if are_numbers:
        first = f"number 0 is {filled[0]}, number 1 is {filled[1]}"
        line = f"classes: {written(filled)}   # if {first}; in another order if it is another"
    else:
        pairs = {str(word): other for word, other in zip(said, filled, strict=True)}
        line = f"classes: {written(pairs)}   # the model's word: the file's word"
    return OpenQuestion(
        f"the model answers {shown(said)}, the file holds {shown(file)}: which is which is not said", line
    )


def _filled(said: Sequence[Word], file: Sequence[Word]) -> list[Word]:
    extra: list[Word] = ["ANOTHER WORD"] * max(0, len(said) - len(file))
    return [*file, *extra][: len(said)]

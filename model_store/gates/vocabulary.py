"""Classes as people write them: `bad`, 1, true. Which are the same, and how they are shown and written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import yaml

from model_store.release_spec import Word

Array = np.ndarray[Any, Any]

MOST_SHOWN = 12


class Vocabulary:
    """Words that can be looked up as the other side spells them: '0' finds 0, True finds 1.

    Numbers and booleans are compared by value where both sides hold nothing else; everything else as it is
    spelt. Different words (yes and 1) are never the same.
    """

    def __init__(self, words: Iterable[Word]) -> None:
        self.words = tuple(map(plain, words))
        self._by_value = {float(word): place for place, word in enumerate(self.words) if _is_number(word)}
        self._by_spelling = {str(word): place for place, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def place(self, word: Word) -> int | None:
        """Where the word stands, None if it does not."""
        if _is_number(word) and len(self._by_value) == len(self.words):
            return self._by_value.get(float(word))
        return self._by_spelling.get(str(plain(word)))

    def places(self, values: Array) -> Array:
        """[N] int64 of [N] words; -1 for those that are not here."""
        different, inverse = np.unique(_sortable(values), return_inverse=True)
        found = [self.place(word) for word in different.tolist()]
        table = np.array([-1 if place is None else place for place in found], np.int64)
        return table[inverse.reshape(-1)] if len(table) else np.zeros(0, np.int64)


def plain(word: Any) -> Word:
    """A Python value; whole floats as whole numbers."""
    value: Word = word.item() if isinstance(word, np.generic) else word
    return int(value) if isinstance(value, float) and value.is_integer() else value


def different(values: Array) -> tuple[Word, ...]:
    """The words of a column, each once, in order."""
    return tuple(plain(word) for word in np.unique(_sortable(values)).tolist())


def shown(words: Sequence[Word]) -> str:
    """`{0, 1}` for people; of many the first."""
    more = f", ... ({len(words)} in all)" if len(words) > MOST_SHOWN else ""
    return "{" + ", ".join(_short(str(word)) for word in words[:MOST_SHOWN]) + more + "}"


def written(value: Any) -> str:
    """As it stands in a spec, quoted where YAML would read something else."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
        .strip()
        .removesuffix("\n...")
    )


def _sortable(values: Array) -> Array:
    flat = np.asarray(values).reshape(-1)
    return flat.astype(str) if flat.dtype == object else flat


def _is_number(word: Word) -> bool:
    return isinstance(word, (bool, int, float))


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"

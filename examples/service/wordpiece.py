"""Text to token ids as BERT's uncased models want them: what a client of the mail model sends.

WordPiece (Schuster & Nakajima 2012; Devlin et al. 2018): lower case without accents, split at white space and
punctuation, each word cut greedily into the longest pieces the vocabulary has. Standard library only.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# A longer word is no word; BERT's own limit.
LONGEST_WORD = 100
# Control, format, private and surrogate characters. Unassigned ones stay and make their word unknown.
DROPPED = ("Cc", "Cf", "Co", "Cs")


@dataclass(frozen=True)
class WordPiece:
    """`pieces` by their id, as vocab.txt lists them."""

    pieces: tuple[str, ...]

    @classmethod
    def read(cls, vocabulary: Path) -> WordPiece:
        """From vocab.txt, a piece a line."""
        return cls(tuple(vocabulary.read_text(encoding="utf-8").splitlines()))

    @cached_property
    def ids(self) -> dict[str, int]:
        """By piece."""
        return {piece: number for number, piece in enumerate(self.pieces)}

    def encode(self, text: str, length: int) -> tuple[list[int], list[int]]:
        """(`input_ids`, `attention_mask`), both exactly `length` (2 or more): cut, or padded."""
        found: list[int] = []
        for word in words(text):
            if len(found) >= length - 2:
                break
            found += self._cut(word)
        ids = [self.ids["[CLS]"], *found[: length - 2], self.ids["[SEP]"]]
        padding = [self.ids["[PAD]"]] * (length - len(ids))
        return ids + padding, [1] * len(ids) + [0] * len(padding)

    def _cut(self, word: str) -> Sequence[int]:
        """The longest piece that fits, again and again; a word that cannot be cut so is unknown."""
        unknown = [self.ids["[UNK]"]]
        if len(word) > LONGEST_WORD:
            return unknown
        found: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self.ids), None)
            if end is None:
                return unknown
            found.append(self.ids[prefix + word[start:end]])
            start = end
        return found


def words(text: str) -> Iterator[str]:
    """Lower case, without accents and control characters; punctuation and Chinese characters stand alone."""
    word = ""
    # Only NFD's own marks go: the letters are looked at as the vocabulary was made.
    for character in unicodedata.normalize("NFD", _clean(text).lower()):
        kind = unicodedata.category(character)
        if kind == "Mn":
            continue
        if character.isspace() or _stands_alone(character, kind):
            if word:
                yield word
            word = ""
            if not character.isspace():
                yield character
        else:
            word += character
    if word:
        yield word


def _clean(text: str) -> str:
    """White space of any kind is a blank; other control and format characters and U+FFFD are dropped."""
    kept = []
    for character in text:
        if character in "\t\n\r" or character.isspace():
            kept.append(" ")
        elif character != "\ufffd" and unicodedata.category(character) not in DROPPED:
            kept.append(character)
    return "".join(kept)


def _stands_alone(character: str, kind: str) -> bool:
    code = ord(character)
    # BERT counts ASCII symbols such as `$` and `^` as punctuation too.
    is_ascii_symbol = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return is_ascii_symbol or kind.startswith("P") or _is_chinese(code)


def _is_chinese(code: int) -> bool:
    blocks = (
        (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
        (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
    )  # fmt: skip
    return any(first <= code <= last for first, last in blocks)

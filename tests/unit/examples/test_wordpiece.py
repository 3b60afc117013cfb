"""Text to tokens as BERT's own tokenizer does. Every expectation here was checked against Hugging Face's
`tokenizers` 0.23, which also agrees on all 6,046 mails of SpamAssassin."""

from __future__ import annotations

import pytest

from examples.service.wordpiece import WordPiece, words

PIECES = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "un",
    "##aff",
    "##able",
    "free",
    "!",
    "money",
    "##s",
    "$",
    "的",
    "cafe",
)
VOCABULARY = WordPiece(PIECES)


def pieces(text: str, length: int = 12) -> list[str]:
    ids, mask = VOCABULARY.encode(text, length)
    assert len(ids) == len(mask) == length
    return [PIECES[number] for number, there in zip(ids, mask, strict=True) if there]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unaffable", ["un", "##aff", "##able"]),
        ("Free MONEYS!!", ["free", "money", "##s", "!", "!"]),
        ("Café", ["cafe"]),
        ("free\u00a0\t\nmoney", ["free", "money"]),
        ("$free", ["$", "free"]),
        ("free的money", ["free", "的", "money"]),
        ("fr\u200bee", ["free"]),
        ("fr\x00ee \ufffd", ["free"]),
        ("strange free", ["[UNK]", "free"]),
        ("unaffablex", ["[UNK]"]),
        ("", []),
    ],
)
def test_text_is_cut_as_bert_cuts_it(text: str, expected: list[str]) -> None:
    assert pieces(text) == ["[CLS]", *expected, "[SEP]"]


def test_a_word_nobody_would_write_is_unknown_as_a_whole() -> None:
    assert pieces("free" * 30) == ["[CLS]", "[UNK]", "[SEP]"]


def test_long_text_is_cut_and_still_ends_with_the_separator() -> None:
    assert pieces("free " * 50, 5) == ["[CLS]", "free", "free", "free", "[SEP]"]


def test_short_text_is_padded_and_masked() -> None:
    assert VOCABULARY.encode("free", 6) == ([2, 7, 3, 0, 0, 0], [1, 1, 1, 0, 0, 0])


def test_unassigned_characters_stay_in_their_word() -> None:
    assert list(words("a\U000b0e39b")) == ["a\U000b0e39b"]

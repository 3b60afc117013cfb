"""Mails as a person reads them, and as tokens."""

from __future__ import annotations

import pytest

from demo.service.mails import LABEL, SLICE, TOKENS, Mail, readable, tokenized
from examples.service.wordpiece import WordPiece

VOCABULARY = WordPiece(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "free", "money", "hello"))

PLAIN = "Received: from spamassassin.taint.org\nSubject: Hello\n\nfree money\n"
MARKUP = """Subject: Hello
Content-Type: text/html

<html><style>p {color: red}</style><p>free&nbsp;<b>money</b></p><script>evil()</script></html>
"""
PARTS = """Subject: Hello
Content-Type: multipart/alternative; boundary=X

--X
Content-Type: text/html

<p>markup</p>
--X
Content-Type: text/plain
Content-Transfer-Encoding: base64

ZnJlZSBtb25leQ==
--X--
"""


@pytest.mark.parametrize("raw", [PLAIN, MARKUP, PARTS])
def test_a_mail_reads_as_subject_and_text(raw: str) -> None:
    assert readable(raw).replace("\u00a0", " ").split() == ["Hello", "free", "money"]


def test_headers_that_tell_how_mails_were_collected_are_not_read() -> None:
    assert "spamassassin" not in readable(PLAIN)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "no headers at all",
        "Content-Type: text/plain; charset=no-such-one\n\nfree money",
        "Subject: =?x?q?=\n\n\ufffd",
    ],
)
def test_a_malformed_mail_is_read_as_far_as_it_goes(raw: str) -> None:
    assert isinstance(readable(raw), str)


def test_an_unknown_character_set_still_leaves_the_text() -> None:
    assert "free money" in readable("Content-Type: text/plain; charset=no-such-one\n\nfree money")


def test_mails_with_the_same_tokens_are_one_row() -> None:
    mails = [Mail("spam-1", PLAIN), Mail("easy-ham-1", MARKUP), Mail("hard-ham-1", "Subject: hello\n\nhello")]
    table = tokenized(iter(mails), VOCABULARY)
    assert table[SLICE].tolist() == ["spam-1", "hard-ham-1"]
    assert table[LABEL].tolist() == [1, 0]
    assert {len(ids) for ids in table["input_ids"]} == {TOKENS}
    assert table["input_ids"][0][:5] == [2, 6, 4, 5, 3]

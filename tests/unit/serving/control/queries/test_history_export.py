"""A history that a spreadsheet opens as text, whatever people wrote."""

from __future__ import annotations

import csv
from datetime import UTC, datetime

import pytest

from serving.control.queries.activity import COLUMNS, csv_lines, harmless
from serving.control.queries.views import HistoryEvent

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "＝1"])
def test_what_could_be_a_formula_is_kept_as_text(text: str) -> None:
    assert harmless(text) == f"'{text}"


@pytest.mark.parametrize("text", ["users complain", "a = b", "3 of 4", ""])
def test_other_text_is_left_alone(text: str) -> None:
    assert harmless(text) == text


def test_quotes_commas_and_lines_survive() -> None:
    reason = 'she said "stop", twice\nand left'
    moment = HistoryEvent(AT, "=bo", "rollback", "-fraud", 3, None, reason)
    lines = "".join(csv_lines([moment])).splitlines(keepends=True)
    header, row = csv.reader(lines)
    assert tuple(header) == COLUMNS
    assert row == ["2026-11-21T12:00:00.000+00:00", "'=bo", "rollback", "'-fraud", "3", "", reason, ""]

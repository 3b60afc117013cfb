"""The history as a file for spreadsheets and programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import UTC

from serving.control.queries.views import HistoryEvent

COLUMNS = ("at", "who", "action", "model", "version", "release_id", "reason", "detail")
# What a spreadsheet takes for a formula at the start of a cell (OWASP: CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def csv_lines(moments: Iterable[HistoryEvent]) -> Iterator[str]:
    """A header and a line for each moment. Text that a spreadsheet would compute is kept as text."""
    yield _line(COLUMNS)
    for moment in moments:
        at = moment.at.astimezone(UTC).isoformat(timespec="milliseconds")
        version = "" if moment.version is None else str(moment.version)
        text = (moment.who, moment.action, moment.model)
        rest = (moment.release_id or "", moment.reason, moment.detail)
        yield _line([at, *map(harmless, text), version, *map(harmless, rest)])


def harmless(text: str) -> str:
    """The text with a quote mark before it if it could be a formula."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) or text.startswith(_FORMULA) else text


def _line(cells: Iterable[str]) -> str:
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL).writerow(cells)
    return written.getvalue()

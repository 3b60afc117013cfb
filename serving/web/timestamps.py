"""Moments in requests: as ISO 8601 writes them, in UTC where no zone is named."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

_DATE_FIRST = re.compile(r"\d{4}-\d{2}-\d{2}")


def in_utc(moment: datetime) -> datetime:
    """In UTC, which is also the zone of a time without one. Raises `ValueError` at the ends of time."""
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("there is no such moment in UTC") from None


def _as_written(text: object) -> object:
    # Pydantic takes a bare number for seconds or milliseconds since 1970: a slip would be a moment.
    if isinstance(text, str) and not _DATE_FIRST.match(text):
        raise ValueError("write a moment as 2026-11-21T12:00:00Z")
    return text


When = Annotated[datetime, BeforeValidator(_as_written), AfterValidator(in_utc)]

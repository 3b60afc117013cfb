"""What people may write and name in a request: limits, which characters, and moments.

A moment is as ISO 8601 writes it, in UTC where no zone is named.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from serving.control import reasons

# Where the API is, below where the app is mounted.
API = "/api/v1"

MODEL = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}$"
RELEASE = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}-v[0-9]{1,9}-[0-9]{8}T[0-9]{6}Z(-[0-9]{1,4})?$"
ROLLBACK = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}-rollback-[0-9]{8}T[0-9]{6}Z(-[0-9]{1,4})?$"
VERSION = r"^([0-9]{1,9}|[A-Za-z_][A-Za-z0-9_\-]{0,63})$"
DIGEST = r"^sha256:[0-9a-f]{64}$"
# What a person is told who wrote something else.
DESCRIPTIONS = {
    MODEL: "a model's name has letters, digits, _ . and -, 100 at most, and begins with a letter or digit",
    RELEASE: "a release's id is <model>-v<version>-<time>, as in fraud-v3-20261121T201500Z",
    ROLLBACK: "a rollback's id is <model>-rollback-<time>, as in fraud-rollback-20261121T201500Z",
    VERSION: "a version is a number or an alias of letters, digits, _ and -",
    DIGEST: "a digest is sha256: and 64 hexadecimal digits, as the preview gives it",
    reasons.PATTERN: reasons.IN_WORDS,
}

_DATE_FIRST = re.compile(r"\d{4}-\d{2}-\d{2}")

ModelName = Annotated[str, Field(pattern=MODEL, description="The model's name in the registry.")]
ModelPath = Annotated[str, Path(pattern=MODEL, description="The model's name in the registry.")]
ReleasePath = Annotated[
    str,
    Path(
        pattern=RELEASE,
        description="The release's id: `<model>-v<version>-<time>`.",
        examples=["fraud-v3-20261121T201500Z"],
    ),
]
RollbackPath = Annotated[
    str,
    Path(
        pattern=ROLLBACK,
        description="The rollback's id: `<model>-rollback-<time>`.",
        examples=["fraud-rollback-20261121T201500Z"],
    ),
]
VersionName = Annotated[
    str, Field(pattern=VERSION, description="A version number, or an alias that points to one.")
]
Reason = Annotated[
    str,
    Field(
        pattern=reasons.PATTERN,
        min_length=1,
        max_length=reasons.LONGEST,
        description="Why. It is kept in the audit trail as it is; whoever shows it has to escape it.",
        examples=["better recall on small loans"],
    ),
]


class Body(BaseModel):
    """A request's body: nothing else may be in it."""

    model_config = ConfigDict(extra="forbid")


class ReasonBody(Body):
    """An act that needs only a reason."""

    reason: Reason


class ControlBody(ReasonBody):
    """An act on what the person looks at."""

    generation: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None,
        description="The generation of the release that the person saw. If another person acted on it since, "
        "the answer is 409 and says who did what. Left out: whatever stands now.",
    )


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

"""What people may write and name in a request: limits, and which characters."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from serving.control import reasons

# Where the app is mounted, and where its API is below that.
PREFIX = "/slipway"
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

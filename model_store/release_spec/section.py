"""What every section of a release spec is: nothing else allowed in it, nothing changed after reading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
# A field, and what is wrong there: values that are fine alone and impossible together.
Found = tuple[tuple[str | int, ...], str]


class Contradictions(ValueError):  # noqa: N818 - they are several
    """Raised inside a pydantic validator; carries every contradiction of a section, not just the first."""

    def __init__(self, found: list[Found]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, field))}: {problem}" for field, problem in found))
        self.found = found


def repeated(field: str, values: Sequence[str]) -> list[Found]:
    """A complaint for each value that stands twice in `values`."""
    return [
        ((field, place), f"`{value}` is already in the list")
        for place, value in enumerate(values)
        if value in values[:place]
    ]


class Section(BaseModel):
    """Base of every section: unknown fields are refused, values never change."""

    # Defaults too: 500 and 500.0 are one number and two texts, and so would be two bundles.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    def contradictions(self) -> list[Found]:
        """Fields of this section that are fine alone and impossible together."""
        return []

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Section:
        if found := self.contradictions():
            raise Contradictions(found)
        return self

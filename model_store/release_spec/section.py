"""What every section of a release spec is: nothing else allowed in it, nothing changed after reading."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model_store.release_spec.contradictions import Contradictions, Found

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]


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

"""What the spec says of the model's answers, where the model does not say it itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from model_store.release_spec.section import Section

Word = str | int | float | bool
Classes = Annotated[tuple[Word, ...], Field(min_length=2)] | Annotated[dict[str, Word], Field(min_length=2)]


class Outputs(Section):
    """Which ONNX output is what: `label` what the model decides, `scores` how sure it is, `value` a number.

    `threshold`: of a single score (or each of a multilabel model's), above which the answer is yes.
    """

    label: str | None = None
    scores: str | None = None
    value: str | None = None
    threshold: float | None = None


def words_of(classes: Classes | None) -> tuple[Word, ...]:
    """The file's words, in the order in which the model counts its classes."""
    if classes is None:
        return ()
    return tuple(classes.values()) if isinstance(classes, Mapping) else classes

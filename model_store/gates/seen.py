"""What is known before a reading is found: the spec, the model's own words, its answers, and the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model_store.gates.questions import Question
from model_store.gates.words import different, plain
from model_store.release_spec import ReleaseSpec, Word
from model_store.types import Task

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """`answers`: by output, [N, ...]; `labels`: as the file holds them ([N], or [N, L] of a multilabel task).

    `says`: what the model says of itself (`Exported["says"]`). `task`: where it is settled already, as for a
    champion.
    """

    spec: ReleaseSpec
    answers: Mapping[str, Array]
    labels: Array
    says: Mapping[str, Any] = field(default_factory=dict)
    task: Task | None = None

    @property
    def file_words(self) -> tuple[Word, ...]:
        return different(self.labels)

    @property
    def model_words(self) -> tuple[Word, ...] | None:
        """The model's classes in its own order, None where it does not say them."""
        said = self.says.get("classes")
        return tuple(map(plain, said)) if said else None

    def role(self, role: str) -> str | None:
        """The one output that the model itself says is its `role`."""
        named = [name for name, what in (self.says.get("outputs") or {}).items() if what == role]
        return named[0] if len(named) == 1 and named[0] in self.answers else None

    def named(self, what: str) -> str | None:
        """The output that the spec says is the `what`. Raises `Question` if there is none of that name."""
        name: str | None = getattr(self.spec.outputs, what)
        if name is not None and name not in self.answers:
            raise Question(
                f"outputs.{what} names `{name}`, and the model answers {', '.join(self.answers)}",
                f"outputs: {{{what}: {next(iter(self.answers))}}}",
            )
        return name

    def described(self) -> str:
        """The outputs with type and shape, for people."""
        kinds = {name: "text" if v.dtype.kind in "OUS" else v.dtype for name, v in self.answers.items()}
        return ", ".join(f"{name} {kinds[name]}{list(v.shape)}" for name, v in self.answers.items())


def width(values: Array) -> int | None:
    """Columns of [N], [N, 1] or [N, C]; None of anything else."""
    return 1 if values.ndim == 1 else int(values.shape[1]) if values.ndim == 2 else None


def is_column(values: Array) -> bool:
    return width(values) == 1

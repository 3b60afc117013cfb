"""What is known before a reading is found, and what it leaves open, which is asked for at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from model_store.errors import Permanent
from model_store.gates.vocabulary import different, plain
from model_store.release_spec import ReleaseSpec, Word
from model_store.types import Task

T = TypeVar("T")


class OpenQuestion(Exception):  # noqa: N818 - it is no error to ask
    """Something that is neither said nor certain. `lines`: what to write into the spec, one way or other."""

    def __init__(self, problem: str, *lines: str) -> None:
        super().__init__(problem)
        self.problem, self.lines = problem, lines


def either(*lines: str) -> tuple[str, ...]:
    """Lines of which one is to be written."""
    return tuple(f"# or: {line}" if place else line for place, line in enumerate(lines))


class Unsaid(Permanent):
    """The model's answers cannot be read without a word from the spec: nothing is guessed."""

    def __init__(self, questions: Sequence[OpenQuestion]) -> None:
        problems = [question.problem for question in questions]
        head = problems[0] if len(problems) == 1 else "\n".join(f"- {problem}" for problem in problems)
        lines = "\n".join(f"      {line}" for question in questions for line in question.lines)
        super().__init__(head, remedy=f"write into the spec what is true:\n{lines}")


class OpenQuestions:
    """Collects questions while the rest is still looked at."""

    def __init__(self) -> None:
        self.questions: list[OpenQuestion] = []

    def attempt(self, find: Callable[[], T], otherwise: T) -> T:
        """What `find` finds; `otherwise` if it has to ask."""
        try:
            return find()
        except OpenQuestion as question:
            self.questions.append(question)
            return otherwise

    def settle(self) -> None:
        """Raises `Unsaid` with every question there was."""
        if self.questions:
            raise Unsaid(self.questions)


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
        """The output that the spec says is the `what`. Raises `OpenQuestion` if none has that name."""
        name: str | None = getattr(self.spec.outputs, what)
        if name is not None and name not in self.answers:
            raise OpenQuestion(
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

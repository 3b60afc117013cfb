"""What model, file and spec leave open: asked for at once, with both sides and the lines to write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from model_store.errors import Permanent

T = TypeVar("T")


class Question(Exception):  # noqa: N818 - it is no error to ask
    """Something that is neither said nor certain. `lines`: what to write into the spec, one way or other."""

    def __init__(self, problem: str, *lines: str) -> None:
        super().__init__(problem)
        self.problem, self.lines = problem, lines


def either(*lines: str) -> tuple[str, ...]:
    """Lines of which one is to be written."""
    return tuple(f"# or: {line}" if place else line for place, line in enumerate(lines))


class Unsaid(Permanent):
    """The model's answers cannot be read without a word from the spec: nothing is guessed."""

    def __init__(self, questions: Sequence[Question]) -> None:
        problems = [question.problem for question in questions]
        head = problems[0] if len(problems) == 1 else "\n".join(f"- {problem}" for problem in problems)
        lines = "\n".join(f"      {line}" for question in questions for line in question.lines)
        super().__init__(head, remedy=f"write into the spec what is true:\n{lines}")


class Asked:
    """Collects questions while the rest is still looked at."""

    def __init__(self) -> None:
        self.questions: list[Question] = []

    def attempt(self, find: Callable[[], T], otherwise: T) -> T:
        """What `find` finds; `otherwise` if it has to ask."""
        try:
            return find()
        except Question as question:
            self.questions.append(question)
            return otherwise

    def settle(self) -> None:
        """Raises `Unsaid` with every question there was."""
        if self.questions:
            raise Unsaid(self.questions)
